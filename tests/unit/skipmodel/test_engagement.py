"""The engagement rule: arithmetic on measured costs, storage, and a calibration that really runs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipmodel.engine.calibration import calibrate, hardware, model_key
from skipmodel.engine.engagement import Engagement, PhaseCost, load, load_for
from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.masked import MaskedEngine
from skipmodel.errors import MeasurementError
from tests.tiny import N_LAYERS, VOCAB, make_skip

SECONDS = st.floats(1e-4, 10.0)
RATES = st.floats(0.0, 1.0)
MACHINE = {"device": "cpu", "n_threads": 2}


def _cost(
    dense: float, none: float, some: float, *, phase: Any = "decode", batch: int = 1, tokens: int = 64
) -> PhaseCost:
    return PhaseCost(phase, batch, tokens, dense, none, some, 0.5)


def _rule(*costs: PhaseCost, min_gain: float = 0.02) -> Engagement:
    return Engagement(MACHINE, "float32", "key", costs, min_gain)


@pytest.mark.parametrize(("dense", "none", "some", "expected"), [
    (1.0, 1.1, 0.6, 0.1),
    (1.0, 1.0, 0.6, 0.0),
    (1.0, 0.9, 0.6, 0.0),
    (1.0, 1.2, 1.2, None),
    (1.0, 1.2, 1.3, None),
    (1.0, 2.0, 1.9, None),
])  # fmt: skip
def test_break_even_by_hand(dense: float, none: float, some: float, expected: float | None) -> None:
    """Where the line through both routed timings meets dense; None if not below a skip rate of 1."""
    assert _cost(dense, none, some).break_even == (None if expected is None else pytest.approx(expected))


@given(SECONDS, SECONDS, SECONDS, RATES)
def test_engaging_means_a_predicted_gain(dense: float, none: float, some: float, rate: float) -> None:
    """At a measured cell the rule is the line itself, and never engages where nothing is skipped."""
    cost = _cost(dense, none, some)
    rule = _rule(cost)

    assert rule.engages("decode", 1, 64, rate) == (dense >= 1.02 * cost.routed_s(rate))
    assert not rule.engages("decode", 1, 64, 0.0)


@given(SECONDS, SECONDS, SECONDS, RATES, RATES)
def test_more_skipping_never_switches_the_rule_off_where_it_saves(
    dense: float, none: float, some: float, one: float, other: float
) -> None:
    """Where skipping saves time at all, a higher rate engages whenever a lower one does."""
    rule = _rule(_cost(dense, none, min(some, none)))
    low, high = sorted((one, other))

    assert rule.engages("decode", 1, 64, high) or not rule.engages("decode", 1, 64, low)


@given(st.integers(1, 64), st.integers(1, 4096), RATES)
def test_predictions_lie_between_the_measured_cells(batch: int, tokens: int, rate: float) -> None:
    """Interpolated in log(tokens) and log(batch); the nearest cell beyond the ends."""
    costs = [_cost(b * t * 1e-4, b * t * 1.1e-4, b * t * 0.6e-4, phase="prefill", batch=b, tokens=t)
             for b in (1, 8) for t in (64, 1024)]  # fmt: skip
    predicted = _rule(*costs).predicted_s("prefill", batch, tokens, rate)
    inside = min(max(batch, 1), 8) * min(max(tokens, 64), 1024)

    assert predicted is not None
    assert predicted[0] == pytest.approx(inside * 1e-4, rel=1e-6)  # a power law is a line in logarithms
    assert predicted[1] == pytest.approx(inside * 1e-4 * (1.1 - rate), rel=1e-6)


def test_a_phase_that_was_not_measured_runs_densely() -> None:
    """No cost, no skipping; `choose` gives the routing itself or None, and leaves None as it is."""
    rule, routing = _rule(_cost(1.0, 1.0, 0.5)), Routing(0.3)

    assert rule.choose(routing, "prefill", 1, 64, 0.5) is None
    assert rule.choose(routing, "decode", 1, 64, 0.5) is routing
    assert rule.choose(routing, "decode", 1, 64, 0.0) is None
    assert rule.choose(None, "decode", 1, 64, 0.5) is None


def test_the_margin_is_a_setting() -> None:
    """A predicted gain of 11 % engages at a margin of 10 %, not at one of 12 %."""
    cost = _cost(1.0, 1.0, 0.8)

    assert _rule(cost, min_gain=0.10).engages("decode", 1, 64, 0.25)
    assert not _rule(cost, min_gain=0.12).engages("decode", 1, 64, 0.25)


@pytest.mark.parametrize("change", [{"dense_s": 0.0}, {"none_s": math.nan}, {"some_rate": 0.0}, {"batch": 0},
                                    {"phase": "train"}])  # fmt: skip
def test_costs_that_no_clock_gives_are_refused(change: dict[str, Any]) -> None:
    """Times of 0, no number, and cells that are none."""
    with pytest.raises(MeasurementError, match="calibrate again"):
        dataclasses.replace(_cost(1.0, 1.0, 0.5), **change)


# --- storage ----------------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    """The break-even rates are for the reader; everything else comes back."""
    rule = _rule(_cost(1.0, 1.1, 0.6), _cost(2.0, 2.1, 1.9, phase="prefill", batch=4), min_gain=0.05)
    path = tmp_path / "engagement.json"
    rule.save(path)

    assert load(path) == rule
    assert json.loads(path.read_text("utf-8"))["costs"][0]["break_even"] == pytest.approx(0.1)


@pytest.mark.parametrize(("machine", "dtype", "key", "reason"), [
    (MACHINE, "float32", "key", None),
    (MACHINE | {"n_threads": 4}, "float32", "key", "n_threads 2 then, 4 now"),
    (MACHINE | {"device": "cuda"}, "float32", "key", "another machine"),
    (MACHINE, "bfloat16", "key", "measured in float32, the model runs in bfloat16"),
    (MACHINE, "float32", "other", "another model"),
])  # fmt: skip
def test_costs_of_something_else_are_not_used(
    tmp_path: Path, machine: dict[str, Any], dtype: str, key: str, reason: str | None
) -> None:
    """Another fingerprint, dtype or model gives nothing, and the reason in words."""
    path = tmp_path / "engagement.json"
    _rule(_cost(1.0, 1.1, 0.6)).save(path)
    found, told = load_for(path, machine, dtype, key)

    assert (found is None) == (reason is not None)
    assert told is None if reason is None else reason in str(told)
    assert load_for(tmp_path / "none.json", machine, dtype, key) == (None, "it is not there yet")


@pytest.mark.parametrize("text", ["{", '{"schema_version": 2}', '{"schema_version": 1, "costs": [{}]}', "[]"])
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    """Half a file, another version, missing fields: one message with what to do."""
    path = tmp_path / "engagement.json"
    path.write_text(text, "utf-8")

    with pytest.raises(MeasurementError, match=r"engagement\.json.*remove it, and it is measured anew"):
        load(path)


# --- calibration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [Engine, MaskedEngine])
def test_a_calibration_measures_every_cell_it_has_time_for(backend: Any) -> None:
    """Both phases, both batches, both lengths; three times each and a skip rate that really ran."""
    engine = backend(make_skip())
    rule = calibrate(engine, batches=(1, 2), tokens=(8, 16), vocabulary=VOCAB, budget_s=600)
    cells = {(cost.phase, cost.batch, cost.tokens) for cost in rule.costs}

    assert cells == {(phase, b, t) for phase in ("decode", "prefill") for b in (1, 2) for t in (8, 16)}
    assert all(0 < cost.some_rate <= (N_LAYERS - 2) / N_LAYERS for cost in rule.costs)
    assert rule.why_not(hardware(engine.device), "float32", model_key(engine)) is None


def test_a_calibration_without_time_measures_the_smallest_cells() -> None:
    """One cell per phase stays; the rule says what it can."""
    rule = calibrate(Engine(make_skip()), batches=(4, 1), tokens=(16, 8), vocabulary=VOCAB, budget_s=1e-9)

    assert [(cost.phase, cost.batch, cost.tokens) for cost in rule.costs] == [("decode", 1, 8), ("prefill", 1, 8)]


def test_routers_that_do_not_differ_are_calibrated_too() -> None:
    """Where every logit is the same no threshold splits them: everything that may skip does."""
    model = make_skip()
    for _, unit in model.routed:
        for parameter in unit.router.parameters():
            parameter.data.zero_()
    rule = calibrate(Engine(model), batches=(1,), tokens=(8,), vocabulary=VOCAB)

    assert {round(cost.some_rate, 6) for cost in rule.costs} == {round((N_LAYERS - 2) / N_LAYERS, 6)}


def test_a_model_that_cannot_skip_is_refused() -> None:
    """There is nothing to choose between."""
    model = make_skip()
    model.close_units(list(model.config.routed_units))

    with pytest.raises(MeasurementError, match="it has none; it always runs densely"):
        calibrate(Engine(model), vocabulary=VOCAB)


def test_the_model_key_tells_what_a_time_depends_on() -> None:
    """Values do not matter; engine, form of the weights, rows at once and routed units do."""
    engine, other = Engine(make_skip()), Engine(make_skip(seed=1))
    fewer = make_skip()
    fewer.close_units([2])
    grouped = Engine(make_skip())
    grouped.group_rows = 64
    keys = [model_key(engine), model_key(MaskedEngine(make_skip())), model_key(engine, "int8"), model_key(grouped),
            model_key(Engine(fewer))]  # fmt: skip

    assert len(set(keys)) == len(keys)
    assert model_key(other) == keys[0]
