"""What guards cost: one lifted at a time, against scores made by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from skipmodel.engine.executor import Engine
from skipmodel.evaluate import score_blocks, skip_rate_per_unit
from skipmodel.guard_costs import ALL_OFF, ALL_ON, guard_costs
from skipmodel.thresholds import thresholds_for
from tests.tiny import make_skip
from tests.unit.skipmodel.test_guards import blocks


def engine_of(n_first: int = 2) -> Engine:
    model = make_skip()
    model.config.force_first_positions = n_first
    return Engine(model)


def test_each_guard_lifted_alone_skips_more_and_all_of_them_most() -> None:
    """Rates and losses are those of scoring by hand; the guards' tokens are counted."""
    text, engine = blocks(), engine_of()
    cut = thresholds_for(engine, text, [0.2], force_critical=True)[0]
    rows = {row.lifted: row for row in guard_costs(engine, text, engine.routing(cut), force_critical=True)}

    assert set(rows) == {ALL_ON, "critical: glossary", "first positions", ALL_OFF}
    assert rows["critical: glossary"].n_tokens == int(text.critical_NT.sum())
    assert rows["first positions"].n_tokens == 2 * len(text)
    assert rows[ALL_ON].skip_rate_cost == 0.0
    for name, force in ((ALL_ON, True), ("critical: glossary", False)):
        scores = score_blocks(engine, text, engine.routing(cut), force_critical=force)
        dense = score_blocks(engine, text, None, force_critical=False)
        assert rows[name].skip_rate == pytest.approx(engine.work.skip_rate(skip_rate_per_unit(text, scores)))
        assert rows[name].ppl_rise == pytest.approx(math.expm1(float((scores.nll_NT - dense.nll_NT).mean())))
    for name in ("critical: glossary", "first positions"):
        assert 0.0 < rows[name].skip_rate_cost <= rows[ALL_OFF].skip_rate_cost


def test_margins_are_a_guard_of_their_own() -> None:
    """Lifted, a class executes no more than others do; padding counts nowhere."""
    text, engine = blocks(), engine_of(n_first=0)
    text = dataclasses.replace(text, n_real_N=torch.full((len(text),), 20))
    cut = thresholds_for(engine, text, [0.2], force_critical=False)[0]
    rows = guard_costs(engine, text, engine.routing(cut), force_critical=False, margins={"glossary": 1e6})

    assert [row.lifted for row in rows] == [ALL_ON, "margins"]
    assert rows[1].n_tokens == int(text.critical_NT[:, :20].sum())
    assert rows[1].skip_rate_cost > 0.0


def test_without_guards_there_is_nothing_to_lift() -> None:
    """One row, and no loss on critical positions where none is critical."""
    text, engine = blocks(), engine_of(n_first=0)
    text = dataclasses.replace(text, kind_NT=torch.zeros_like(text.kind_NT))
    (row,) = guard_costs(engine, text, engine.routing(0.0), force_critical=True)

    assert row.lifted == ALL_ON
    assert row.critical_nll_rise is None
