import json
from dataclasses import replace

import numpy as np
import pytest

from flows.cli import main
from kpis import simulated_power, simulation_summary
from kpis.errors import StatisticsError
from kpis.item_table import ItemTable
from kpis.limits import GateLimits
from kpis.planning import design_effect
from kpis.simulated import Truth, clusters, draw_documents, draw_items, draw_pairs
from kpis.simulated_power import power_table, quality_cells, speed_cells, speed_power
from kpis.simulation import Market, Scenario, Simulated, scenarios, simulate_poc
from kpis.simulation_summary import scenario_row
from kpis.stats import log_ratio_interval

LIMITS = GateLimits()


@pytest.fixture(scope="module")
def market() -> Market:
    """Prices in order on the day of the simulation."""
    return Market.fresh(LIMITS)


def named(name: str) -> Scenario:
    """One of the scenarios."""
    return next(scenario for scenario in scenarios(LIMITS) if scenario.name == name)


def test_every_must_gate_with_a_known_truth_lies_exactly_at_its_limit() -> None:
    """The truths of the scenarios are the registered limits themselves, not something near them."""
    truths = {scenario.gate: scenario.truth for scenario in scenarios(LIMITS) if scenario.gate}

    assert truths["Q1"].difference == pytest.approx(-LIMITS.quality_margin, abs=1e-15)
    assert truths["Q2"].harmful == LIMITS.max_harmful_rate
    assert truths["Q2"].harmful + truths["Q2"].helpful == LIMITS.max_flip_rate
    assert truths["Q4"].over_skip == LIMITS.max_over_skip
    assert truths["S1"].speedup == LIMITS.min_speedup


def test_drawn_items_have_the_true_shares_and_repeats() -> None:
    """A hundred thousand drawn items: shares and design effect of the truth, within four standard errors."""
    truth = replace(Truth(), n_items=100_000, harmful=0.03, helpful=0.01, repeat=0.5)
    table = ItemTable.of(draw_items(truth, np.random.default_rng(0)))

    error = 4 * np.sqrt(0.04 * truth.design_effect / 100_000)
    assert table.harmful.mean() - table.helpful.mean() == pytest.approx(-truth.difference, abs=error)
    assert table.same.mean() == pytest.approx(truth.agreement, abs=4 * np.sqrt(0.06 * 2 / 100_000))
    values = table.helpful.astype(float) - table.harmful.astype(float)
    sums = np.column_stack([table.sums(values), table.sums(values**2)[:, 0]])
    assert truth.design_effect == pytest.approx(1 + 0.5 * 4 / 3)
    assert design_effect(sums) == pytest.approx(truth.design_effect, abs=0.1)


def test_drawn_documents_and_times_have_their_truth() -> None:
    """Thousands of documents and pairs: over-skips, loss and speed-up of the truth."""
    truth = replace(Truth(), n_documents=4000, over_skip=0.01, n_pairs=4000)
    generator = np.random.default_rng(1)
    documents, pairs = draw_documents(truth, generator), draw_pairs(truth, generator)

    over = sum(document.n_over_skipped for document in documents) / sum(document.n_critical for document in documents)
    loss = np.mean([(document.nll_skip - document.nll_dense) / document.n_tokens for document in documents])
    assert over == pytest.approx(0.01, abs=0.001)
    assert loss == pytest.approx(truth.loss_nats, abs=0.0015)
    assert log_ratio_interval(pairs.dense_s, pairs.skip_s)[0] == pytest.approx(1.3, rel=0.002)


def test_sources_take_their_sizes_in_turn() -> None:
    """One, two, three, one, ...; the last one is cut."""
    assert clusters(replace(Truth(), n_items=8)).tolist() == [0, 1, 1, 2, 2, 2, 3, 4]


def test_the_identical_model_changes_nothing(market: Market) -> None:
    """Level 0: every interval contains its truth of 0 or 1, no setting skips, and the verdict is No-Go."""
    outcome = simulate_poc(named("identical").truth, LIMITS, np.random.default_rng(2), market)

    assert (outcome.code, outcome.main_reason) == ("no_go", "no_threshold_passes")
    assert all(outcome.covered.values())


@pytest.mark.parametrize(
    ("name", "codes", "reasons"),
    [
        ("made_worse", {"no_go"}, {"quality_refuted", "no_threshold_passes", "harmful_flips_refuted"}),
        ("made_slower", {"no_go"}, {"speed_refuted", "no_threshold_passes"}),
        ("too_few_items", {"no_go_insufficient_evidence", "conditional_go"}, {"quality_not_shown", "too_few_items"}),
    ],
)
def test_bad_cases_never_pass(name: str, codes: set[str], reasons: set[str], market: Market) -> None:
    """A worse, a slower and a hardly measured model: no Go in any of five PoCs, each with its reason."""
    generator = np.random.default_rng(3)

    for _ in range(5):
        outcome = simulate_poc(named(name).truth, LIMITS, generator, market)
        assert outcome.code in codes
        assert outcome.main_reason in reasons


def test_a_sound_model_gets_its_go(market: Market) -> None:
    """With every truth well inside its limit most PoCs end with a Go: the rule can say yes."""
    generator = np.random.default_rng(4)
    verdicts = [simulate_poc(named("sound").truth, LIMITS, generator, market).code for _ in range(6)]

    assert verdicts.count("go") >= 4


def test_shares_are_counted_from_the_outcomes() -> None:
    """Two Go of four; one PoC without a chosen setting is not judged; missing n by its median."""
    covered = {"difference": True}
    outcomes = [
        Simulated("go", "all_gates_pass", {"Q1": "pass"}, None, covered),
        Simulated("go", "all_gates_pass", {"Q1": "pass"}, None, {"difference": False}),
        Simulated("no_go", "no_threshold_passes", {"Q1": "not_measured"}, None, covered),
        Simulated("no_go_insufficient_evidence", "quality_not_shown", {"Q1": "inconclusive"}, 900, covered),
    ]

    row = scenario_row(Scenario("x", Truth(), "Q1"), outcomes)
    assert (row["n_go"], row["go"], row["gate_judged"]) == (2, 0.5, 3)
    assert row["gate_passed"] == pytest.approx(2 / 3)
    assert (row["median_required_n"], row["covered"]) == (900, {"difference": 3})


def test_power_theory_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit S1 passes in 2.5 % by theory; rows compare it with simulation."""
    assert speed_power(replace(Truth(), speedup=LIMITS.min_speedup), LIMITS) == pytest.approx(0.025, abs=1e-9)
    monkeypatch.setattr(simulated_power, "REPEATS", 1)
    rows = power_table(20, LIMITS, 1, lambda _: None)
    assert [row["gate"] for row in rows] == ["Q1"] * len(quality_cells()) + ["S1"] * len(speed_cells())
    assert all(row["error"] == pytest.approx(row["simulated"] - row["theory"]) for row in rows)
    assert all(abs(row["error"]) < 0.4 for row in rows)


def test_command_ends_with_its_document(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`simulate` prints tables and, on the last line, JSON with the three numbers; the same seed gives the same."""
    monkeypatch.setattr(simulation_summary, "power_table", lambda *_: [
        {"gate": "S1", "n": 5, "truth": 1.15, "theory": 0.70, "simulated": 0.69, "error": -0.01}])  # fmt: skip

    few = (named("quality_at_margin"), named("identical"))
    monkeypatch.setattr(simulation_summary, "scenarios", lambda _: few)
    lines = []
    for _ in range(2):
        assert main(["simulate", "--n", "20", "--seed", "5", "--quiet"]) == 0
        lines.append(capsys.readouterr().out.splitlines()[-1])
    document = json.loads(lines[0])
    assert lines[0] == lines[1]
    assert 0.0 <= document["false_go"] <= document["false_go_high"] <= 1.0
    assert document["power_error_max"] == 0.01
    assert document["coverage"] in document["coverage_by_interval"].values()
    assert [row["name"] for row in document["scenarios"]] == ["quality_at_margin", "identical"]


def test_too_few_simulations_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten PoCs say nothing; the command says so with exit code 2."""
    with pytest.raises(StatisticsError, match="at least 20"):
        simulation_summary.simulate(10, 1)
    assert main(["simulate", "--n", "10"]) == 2
    assert "at least 20" in capsys.readouterr().err
