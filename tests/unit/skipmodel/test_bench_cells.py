"""Cells of the benchmark: what is counted and what is computed from it. The clock itself is not judged."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from skipmodel.bench.cells import Row, time_cell
from skipmodel.bench.devices import EnergyMeter
from skipmodel.bench.loads import Batch, DecodeLoad, PrefillLoad
from skipmodel.bench.natural import natural_view, write
from skipmodel.bench.statistics import log_ratio_interval
from skipmodel.engine.engagement import Engagement, PhaseCost
from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.masked import MaskedEngine
from skipmodel.engine.random_routing import random_step_masks, random_tables
from skipmodel.errors import MeasurementError
from skipmodel.guards import TokenSequences
from tests.tiny import N_LAYERS, VOCAB, make_skip

N_ROUTED = N_LAYERS - 2


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Six layers, four of them routed."""
    return Engine(make_skip())


def _texts(n: int, length: int, batch: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    return [Batch(torch.randint(3, VOCAB, (batch, length), generator=generator)) for _ in range(n)]


def _decode(engine: Any, texts: list[Batch], prompt: int, n_pairs: int, **options: Any) -> Row:
    kind: Any = "random" if "random_skip_rate" in options else "trained"
    return time_cell(engine, DecodeLoad(engine, texts, prompt, **options), n_pairs=n_pairs, kind=kind)


def _prefill(engine: Any, texts: list[Batch], n_pairs: int, **options: Any) -> Row:
    kind: Any = "random" if "random_skip_rate" in options else "trained"
    return time_cell(engine, PrefillLoad(engine, texts, **options), n_pairs=n_pairs, kind=kind)


def _rule(phase: Any, *, skips: bool) -> Engagement:
    cost = PhaseCost(phase, 1, 8, 1.0, 1.0, 0.5 if skips else 1.5, 0.5)
    return Engagement({}, "float32", "x", (cost,))


# --- random routing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 0.5, N_ROUTED / N_LAYERS])
def test_random_tables_meet_the_rate_step_by_step(engine: Engine, rate: float) -> None:
    """Every step skips the whole number of layers below or above the asked one; only routed layers; same by seed."""
    tables = list(random_tables(engine, rate, 40, seed=7))
    skipped = [table.count(False) for table in tables]
    wanted = rate * N_LAYERS

    assert {math.floor(wanted + 1e-9), math.ceil(wanted - 1e-9)} >= set(skipped)
    assert abs(sum(skipped) - 40 * wanted) <= 1
    assert all(table[0] and table[-1] for table in tables)
    assert tables == list(random_tables(engine, rate, 40, seed=7))
    assert rate in (0.0, N_ROUTED / N_LAYERS) or tables != list(random_tables(engine, rate, 40, seed=8))


def test_rows_of_a_batch_skip_on_their_own(engine: Engine) -> None:
    """Every row meets the rate over the run, and rows differ."""
    mask_SLB = torch.stack(random_step_masks(engine, 0.3, 20, 3, seed=1))[..., 0]
    skipped_B = (~mask_SLB).float().mean((0, 1))

    assert mask_SLB.shape == (20, N_LAYERS, 3)
    torch.testing.assert_close(skipped_B, torch.full((3,), 0.3), atol=1 / (20 * N_LAYERS), rtol=0)
    assert not torch.equal(mask_SLB[..., 0], mask_SLB[..., 1])


@pytest.mark.parametrize("load", [lambda e, t: DecodeLoad(e, t, 8, random_skip_rate=0.7),
                                  lambda e, t: PrefillLoad(e, t, random_skip_rate=0.7)])  # fmt: skip
def test_a_rate_above_the_routed_layers_is_refused(engine: Engine, load: Any) -> None:
    """Four of six layers cannot skip 70 % of all; the message says which settings to lower."""
    with pytest.raises(MeasurementError, match=r"70% .* only 4 of 6 layers are routed; lower it .*--skip-rates"):
        load(engine, _texts(1, 12))


# --- decode -----------------------------------------------------------------------------------------------------


def test_random_decode_counts_what_it_skipped(engine: Engine) -> None:
    """As many samples as pairs in both arms, a counted rate within one layer of the asked one, its own ceiling."""
    row = _decode(engine, _texts(2, 20), 12, 3, random_skip_rate=0.3)
    counted = sum(table.count(False) for table in random_tables(engine, 0.3, 8, seed=0)) / (8 * N_LAYERS)
    per_layer = [counted * N_LAYERS / N_ROUTED if 0 < index < N_LAYERS - 1 else 0.0 for index in range(N_LAYERS)]

    assert (row.phase, row.routing, row.backend, row.batch) == ("decode", "random", "branch", 1)
    assert (row.prompt, row.output_tokens, row.dtype, row.n_pairs) == (12, 8, "float32", 3)
    assert len(row.dense_s) == len(row.skip_s) == 3
    assert min(*row.dense_s, *row.skip_s) > 0
    assert row.skip_rate == pytest.approx(counted)
    assert abs(counted - 0.3) <= 1 / N_LAYERS
    assert row.ceiling == pytest.approx(engine.work.estimated_ceiling(per_layer))
    assert (row.speedup, row.low, row.high) == log_ratio_interval(row.dense_s, row.skip_s)


def test_trained_decode_counts_the_routers_decisions(engine: Engine) -> None:
    """The rate is that of stepping through the same text once, after a prompt that was read densely."""
    (text,) = _texts(1, 20)
    routing = engine.routing(0.0)
    row = _decode(engine, [text], 12, 2, routing=routing)
    cache = engine.new_cache(1, 20)
    engine.hidden(text.ids_BT[:, :12], cache=cache)
    n_skipped = sum(engine.step(token, cache, routing)[1] for token in text.ids_BT[:, 12:].split(1, dim=1))

    assert row.routing == "trained"
    assert 0 < n_skipped < 8 * N_ROUTED
    assert row.skip_rate == pytest.approx(n_skipped / (8 * N_LAYERS))


def test_batched_decode_counts_every_row(engine: Engine) -> None:
    """Three rows in the gathered backend skip what each skips alone, guards included; n counts requests."""
    (text,) = _texts(1, 20, batch=3)
    forced_BT = torch.zeros(3, 20, dtype=torch.bool)
    forced_BT[1, 14:18] = True
    routing = engine.routing(0.0)
    row = _decode(engine, [Batch(text.ids_BT, forced_BT)], 12, 2, routing=routing)
    alone = [_decode(engine, [Batch(text.ids_BT[i : i + 1], forced_BT[i : i + 1])], 12, 2, routing=routing)
             for i in range(3)]  # fmt: skip

    assert (row.backend, row.batch) == ("gathered", 3)
    assert row.skip_rate == pytest.approx(sum(one.skip_rate or 0 for one in alone) / 3, abs=1e-6)
    assert row.tpot is not None
    assert row.itl is not None
    assert row.ttft is None
    assert (row.tpot["skip"]["n"], row.itl["skip"]["n"], row.itl["skip"]["n_samples"]) == (6, 6, 16)
    assert row.itl["dense"]["p99"] is None


def test_batched_random_decode_meets_the_rate(engine: Engine) -> None:
    """The drawn masks are what runs."""
    row = _decode(engine, _texts(1, 24, batch=2), 12, 2, random_skip_rate=0.5)

    assert row.skip_rate == pytest.approx(0.5)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_random_rate_of_zero_runs_the_routers_and_skips_nothing(engine: Engine, batch: int) -> None:
    """Rate 0, ceiling 1: the row that shows what routers cost."""
    load = DecodeLoad(engine, _texts(1, 12, batch), 8, random_skip_rate=0.0)
    row = time_cell(engine, load, n_pairs=2, kind="random", requested_skip_rate=0.0)

    assert load.tables == [None] * 4
    assert load.masks is None
    assert (row.skip_rate, row.ceiling, row.conversion) == (0.0, 1.0, None)


# --- prefill ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_texts", "batch"), [(1, 1), (2, 1), (2, 3)])
def test_prefill_counts_the_rows_it_left_out(engine: Engine, n_texts: int, batch: int) -> None:
    """The rate is the mean over the timed texts of what a plain pass with the same guards skips."""
    forced_BT = (torch.arange(24) % 5 == 0).expand(batch, -1)
    texts = [Batch(text.ids_BT, forced_BT) for text in _texts(n_texts, 24, batch)]
    routing = engine.routing(0.0)
    row = _prefill(engine, texts, 4, routing=routing)
    rates = []
    for text in texts:
        mask: Any = engine.hidden(text.ids_BT, routing, forced_BT=forced_BT).execute_mask_LBT
        rates.append((~mask).float().mean((1, 2)))
    per_layer = torch.stack(rates).mean(0).tolist()

    assert (row.phase, row.backend, row.prompt, row.output_tokens) == ("prefill", "gathered", 24, None)
    assert len(row.dense_s) == len(row.skip_s) == 4
    assert row.skip_rate == pytest.approx(sum(per_layer) / N_LAYERS)
    assert row.ceiling == pytest.approx(engine.work.prefill_ceiling(per_layer, 24))
    assert row.ttft is not None
    assert row.tokens_per_s is not None
    assert row.ttft["dense"]["n"] == 4 * batch
    assert row.tokens_per_s["dense"] == pytest.approx(batch * 24 / row.ttft["dense"]["p50"])


def test_random_prefill_skips_about_the_asked_share(engine: Engine) -> None:
    """Over many tokens the drawn mask comes near the asked rate of all layers."""
    row = _prefill(engine, _texts(1, 400), 2, random_skip_rate=0.4)

    assert row.routing == "random"
    assert row.skip_rate == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("time_it", [
    lambda e, t: _decode(e, t, 12, 2, routing=e.routing(0.0)),
    lambda e, t: _decode(e, t, 12, 2, random_skip_rate=0.3),
    lambda e, t: _prefill(e, t, 2, routing=e.routing(0.0)),
    lambda e, t: _prefill(e, t, 2, random_skip_rate=0.3),
])  # fmt: skip
@pytest.mark.parametrize("batch", [1, 2])
def test_the_masked_backend_is_timed_and_counted_alike(engine: Engine, time_it: Any, batch: int) -> None:
    """The same decisions give the same counted rate and ceiling; the row says which backend ran."""
    masked, text = MaskedEngine(make_skip()), _texts(1, 20, batch)
    fast, slow = time_it(engine, text), time_it(masked, text)

    assert slow.backend == "masked"
    assert (slow.skip_rate, slow.ceiling) == (pytest.approx(fast.skip_rate), pytest.approx(fast.ceiling))
    assert 0 < slow.skip_rate < N_ROUTED / N_LAYERS


def test_sublayers_count_as_their_share_of_a_layer() -> None:
    """Eight of twelve sub-layers routed: a rate within all layer executions, weighted by what each part is."""
    engine = MaskedEngine(make_skip(unit="sublayers"))
    row = _decode(engine, _texts(1, 20), 12, 2, random_skip_rate=0.3)
    share = engine.work.unit_share
    skipped = torch.tensor([table.count(False) for table in random_tables(engine, 0.3, 8, seed=0)])

    assert row.skip_rate == pytest.approx(float(skipped.float().mean()) * (share[0] + share[1]) / 2 / N_LAYERS)


# --- the rule, energy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda e: DecodeLoad(e, _texts(1, 20), 12, e.routing(0.0)),
                                  lambda e: PrefillLoad(e, _texts(1, 20), e.routing(0.0))])  # fmt: skip
def test_a_rule_that_says_dense_is_timed_not_written_down(engine: Engine, make: Any) -> None:
    """A third arm runs densely in the same turn; its own samples give the ratio with the rule."""
    load = make(engine)
    row = time_cell(engine, load, n_pairs=3, kind="trained", engagement=_rule(load.phase, skips=False))

    assert row.engaged is False
    assert row.rule_s is not None
    assert len(row.rule_s) == 3
    assert (row.speedup_with_rule, row.low_with_rule, row.high_with_rule) == log_ratio_interval(row.dense_s, row.rule_s)
    assert row.speedup == log_ratio_interval(row.dense_s, row.skip_s)[0]


def test_a_rule_that_skips_needs_no_third_arm(engine: Engine) -> None:
    """What is measured with the rule is what is measured without; and no rule leaves the columns empty."""
    load = DecodeLoad(engine, _texts(1, 20), 12, engine.routing(0.0))
    row = time_cell(engine, load, n_pairs=2, kind="trained", engagement=_rule("decode", skips=True))
    without = time_cell(engine, load, n_pairs=2, kind="trained")

    assert (row.engaged, row.rule_s, row.speedup_with_rule) == (True, None, row.speedup)
    assert (without.engaged, without.speedup_with_rule, without.low_with_rule) == (None, None, None)


class _Nvml:
    """An energy counter that rises by 2 J with every reading."""

    def __init__(self) -> None:
        self.n = 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802 - the name that NVML gives it
        self.n += 1
        return 2000 * self.n


def test_energy_is_per_token_where_the_device_reports_it(engine: Engine) -> None:
    """Joules between two readings of a run over its tokens; null where there is no counter, with a reason."""
    meter = EnergyMeter(handle=object(), nvml=_Nvml())
    row = time_cell(engine, DecodeLoad(engine, _texts(1, 20), 12, energy=meter), n_pairs=2, kind="trained")
    read = time_cell(engine, PrefillLoad(engine, _texts(1, 20), energy=meter), n_pairs=2, kind="trained")
    none = EnergyMeter.open(torch.device("cpu"))

    assert row.joules_per_token == {"dense": 0.25, "skip": 0.25}
    assert read.joules_per_token == {"dense": 0.1, "skip": 0.1}
    assert (none.read(), none.reason) == (None, "no CUDA device")
    assert _decode(engine, _texts(1, 12), 8, 2).joules_per_token is None


# --- natural length ---------------------------------------------------------------------------------------------


def test_an_answer_ends_where_the_model_ends_it(engine: Engine) -> None:
    """The same greedy tokens up to the first end token or the limit."""
    (prompt,) = _texts(1, 10)
    free = write(engine, prompt, None, end_ids=(), max_tokens=12)
    stop = free.ids[5]
    ended = write(engine, prompt, None, end_ids=(stop,), max_tokens=12)

    assert (len(free.ids), free.ended) == (12, False)
    assert ended.ids == free.ids[: free.ids.index(stop) + 1]
    assert ended.ended
    assert 0 < ended.ttft_s <= ended.request_s


def test_the_natural_view_holds_lengths_and_seconds_of_both_arms(engine: Engine) -> None:
    """One pair per prompt; an arm that never skips writes the dense text; guards keep a listed token executing."""
    prompts = _texts(3, 10)
    view = natural_view(engine, prompts, Routing(), end_ids=(5, 9), max_tokens=8)
    guarded = natural_view(engine, prompts, Routing(math.inf), end_ids=(), max_tokens=8,
                           finder=TokenSequences([[token] for token in range(VOCAB)]))  # fmt: skip

    assert (view["n_requests"], view["n_same_text"]) == (3, 3)
    assert view["arms"]["dense"]["n_tokens"] == view["arms"]["skip"]["n_tokens"]
    assert all(1 <= n <= 8 for n in view["arms"]["skip"]["n_tokens"])
    assert len(view["arms"]["skip"]["request_s"]) == 3
    assert guarded["arms"]["skip"]["n_tokens"] == [8, 8, 8]
