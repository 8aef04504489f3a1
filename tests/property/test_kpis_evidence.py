import math
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kpis.cost import cost
from kpis.cost_inputs import CostInputs, Spending, Volume
from kpis.decide import gates, verdict
from kpis.limits import GateLimits
from kpis.quality import bounds, confirmation
from kpis.records import DocumentPair, Evidence, ItemPair, TimingPairs, VerdictContext
from kpis.simulation import Market
from kpis.speed import estimate, responses, speed_row

LIMITS = GateLimits()
RANK = {"go": 0, "conditional_go": 1, "no_go_insufficient_evidence": 2, "no_go": 3}
MARKET = Market.fresh(LIMITS)


@dataclass(frozen=True)
class Poc:
    """The evidence of one PoC in a few numbers; every field can be made worse by itself."""

    harmful: int = 4
    helpful: int = 5
    n_items: int = 1000
    must_pass_failed: int = 0
    over_skipped: int = 0
    ratio: float = 1.3
    noise: float = 0.01
    wait: float = 0.5
    days_later: int = 0
    openings: int = 1
    on_target: bool = True
    at_target_load: bool = True


WORSE: dict[str, Any] = {
    "harmful": lambda poc, step: replace(poc, harmful=poc.harmful + step),
    "helpful": lambda poc, step: replace(poc, helpful=max(0, poc.helpful - step)),
    "must_pass_failed": lambda poc, step: replace(poc, must_pass_failed=poc.must_pass_failed + 1),
    "over_skipped": lambda poc, step: replace(poc, over_skipped=poc.over_skipped + step),
    "ratio": lambda poc, step: replace(poc, ratio=poc.ratio / (1 + step / 100)),
    "wait": lambda poc, step: replace(poc, wait=poc.wait * (1 + step / 10)),
    "days_later": lambda poc, step: replace(poc, days_later=poc.days_later + 10 * step),
    "openings": lambda poc, step: replace(poc, openings=poc.openings + 1),
    "on_target": lambda poc, step: replace(poc, on_target=False),
    "at_target_load": lambda poc, step: replace(poc, at_target_load=False),
}


def items_of(poc: Poc) -> list[ItemPair]:
    """Single items: the flips, the must-pass cases among those that dense gets right, the rest right in both."""
    cells = [(True, False)] * (poc.harmful + poc.must_pass_failed) + [(False, True)] * poc.helpful
    cells += [(False, False)] * (10 + 10 - min(10, poc.helpful))
    cells += [(True, True)] * (poc.n_items - len(cells))
    return [
        ItemPair(f"i{i}", f"c{i}", "all", dense, skip, dense == skip, poc.harmful <= i < poc.harmful + 3, "ja")
        for i, (dense, skip) in enumerate(cells)
    ]


def documents_of(poc: Poc) -> list[DocumentPair]:
    """Twenty documents of 50 critical tokens over which the over-skips are dealt out evenly."""
    each = [poc.over_skipped // 20 + (i < poc.over_skipped % 20) for i in range(20)]
    return [DocumentPair(f"d{i}", 200, 800, 400.0, 401.0, 195, 50, n, 190, 200, 600, 800) for i, n in enumerate(each)]


def decide(poc: Poc) -> str:
    """The verdict of the evidence."""
    documents, items = documents_of(poc), items_of(poc)
    confirmed = confirmation(
        documents, items, skip_rate=0.2, skip_positions_by_class={}, noise_floor_flips=None, limits=LIMITS, n_draws=200
    )
    factors = [math.exp(poc.noise * sign) for sign in (-1, 1, -1, 1, -1, 1, 0, 0)]
    pairs = TimingPairs("decode", 1, tuple(poc.ratio * factor for factor in factors), (1.0,) * 8)
    headline = speed_row(
        pairs, prompt_tokens=16, output_tokens=32, dtype="bfloat16", backend="graph", routing="trained",
        skip_rate=0.3, skippable_time_share=0.9, is_headline=True,
    )  # fmt: skip
    waits = [poc.wait * LIMITS.slo_tpot_s] * 1000
    waited = responses(
        ttft_dense_s=waits, ttft_skip_s=waits, tpot_dense_s=waits, tpot_skip_s=waits, slo_ttft_s=LIMITS.slo_ttft_s,
        slo_tpot_s=LIMITS.slo_tpot_s, load="peak",
    )  # fmt: skip
    money = cost(
        CostInputs(1.25, estimate(pairs), Volume(1e6, 500, 200, 5.0), Spending(8e4, 5.0), n_draws=200), MARKET.book,
        gpu_id=MARKET.gpu_id, api_id=MARKET.api_id, on=MARKET.on + timedelta(days=poc.days_later), limits=LIMITS,
    )  # fmt: skip
    evidence = Evidence(
        bounds=bounds(documents, items, LIMITS, n_draws=200), functional_check=False,
        hardware_matches_target=poc.on_target, test_openings=poc.openings, responses_at_target_load=poc.at_target_load,
    )  # fmt: skip
    rows = gates(confirmed, headline, waited, money, evidence, LIMITS)
    return str(verdict(rows, VerdictContext(functional_check=False, threshold_chosen=True))["code"])


def pocs() -> st.SearchStrategy[Poc]:
    """PoCs on both sides of every limit, good ones more often."""
    return st.builds(
        Poc,
        harmful=st.sampled_from([0, 2, 5, 15, 30, 60]),
        helpful=st.sampled_from([0, 3, 8]),
        n_items=st.sampled_from([150, 800, 1000]),
        must_pass_failed=st.sampled_from([0, 0, 0, 1]),
        over_skipped=st.sampled_from([0, 0, 3, 8, 25]),
        ratio=st.sampled_from([0.9, 1.08, 1.12, 1.3, 1.5]),
        noise=st.sampled_from([0.005, 0.05]),
        wait=st.sampled_from([0.5, 0.95, 1.2]),
        days_later=st.sampled_from([0, 0, 60, 120]),
        openings=st.sampled_from([1, 1, 2]),
        on_target=st.sampled_from([True, True, False]),
        at_target_load=st.sampled_from([True, True, False]),
    )


@given(pocs(), st.sampled_from(sorted(WORSE)), st.integers(1, 12))
@settings(max_examples=120, deadline=None)
def test_worse_records_never_improve_the_verdict(poc: Poc, what: str, step: int) -> None:
    """One piece of evidence made worse leaves the verdict where it is or moves it away from Go."""
    before, after = decide(poc), decide(WORSE[what](poc, step))

    assert RANK[after] >= RANK[before], (poc, what, step)


@given(st.sampled_from([name for name in sorted(WORSE) if name not in ("helpful", "days_later")]))
@settings(max_examples=8, deadline=None)
def test_each_piece_of_evidence_can_take_a_go_away(what: str) -> None:
    """A sound PoC is a Go; each piece of evidence, made bad enough, ends that."""
    poc = Poc()
    assert decide(poc) == "go"
    for _ in range(8):
        poc = WORSE[what](poc, 10)

    assert decide(poc) != "go"
