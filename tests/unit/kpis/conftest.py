"""Builders of small records with numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kpis.cost_inputs import CostInputs, Spending, Volume
from kpis.records import DocumentPair, ItemPair
from kpis.speed import SpeedEstimate

Make = Callable[..., Any]


@pytest.fixture
def make_document() -> Make:
    """A document of 100 tokens at 2 nats each; any field can be replaced."""

    def make(**changes: Any) -> DocumentPair:
        fields: dict[str, Any] = {
            "document_id": "d0",
            "n_tokens": 100,
            "n_bytes": 400,
            "nll_dense": 200.0,
            "nll_skip": 200.0,
            "n_same_top1": 100,
            "n_critical": 20,
            "n_over_skipped": 0,
            "n_critical_executed": 190,
            "n_critical_positions": 200,
            "n_other_executed": 600,
            "n_other_positions": 800,
        }
        return DocumentPair(**{**fields, **changes})

    return make


@pytest.fixture
def make_items() -> Make:
    """Items from the four cells of the right/wrong table, each its own cluster unless `per_cluster` is given."""

    def make(
        both_right: int = 0, harmful: int = 0, helpful: int = 0, both_wrong: int = 0, **options: Any
    ) -> list[ItemPair]:
        cells = (
            [(True, True)] * both_right
            + [(True, False)] * harmful
            + [(False, True)] * helpful
            + [(False, False)] * both_wrong
        )
        per_cluster = options.pop("per_cluster", 1)
        common: dict[str, Any] = {"slice": "all", "must_pass": False, "language": "ja", **options}
        return [
            ItemPair(
                item_id=f"i{i}",
                cluster=f"c{i // per_cluster}",
                dense_correct=dense,
                skip_correct=skip,
                same_answer=dense == skip,
                **common,
            )
            for i, (dense, skip) in enumerate(cells)
        ]

    return make


@pytest.fixture
def make_cost_inputs() -> Make:
    """1.25 s per dense request (0.8 req/s), speed-up 1.3 known exactly, peak 5 req/s."""

    def make(ratio_log: float = 0.26236426446749106, **changes: Any) -> CostInputs:
        fields: dict[str, Any] = {
            "dense_request_s": 1.25,
            "speed": SpeedEstimate(ratio_log, 0.0, 5),
            "volume": Volume(1_000_000.0, 500, 200, 5.0),
            "spending": Spending(
                engineer_day_jpy=80_000.0, investment_engineer_days=5.0, upkeep_engineer_days_per_month=0.5
            ),
            "n_draws": 1000,
        }
        return CostInputs(**{**fields, **changes})

    return make
