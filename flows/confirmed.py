"""What the records of the confirmation say beside the gates: flips, slices, noise floor, documents, graded answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import answers
from flows.errors import PocError
from flows.load_test import load, planned_path
from flows.store import read_json
from flows.workbench import Workbench
from kpis.generated import graded_rows, written
from kpis.limits import GateLimits
from kpis.load_test import LoadTest
from kpis.quality_detail import document_rows, flips, noise_floor, slice_rows
from kpis.records import DocumentPair, ItemPair

N_DOCUMENTS = 5
"""Documents that are shown by their figures, those that lost most; without names, which may tell what is in them."""
LOAD_TEST_COPY = "load_test.json"
"""Copy of the load test beside result.json, so that a verdict can be computed again from the run folder alone."""


def detail(
    folder: Path, documents: Sequence[DocumentPair], items: Sequence[ItemPair], limits: GateLimits, seed: int
) -> dict[str, Any]:
    """Return the `detail` object of result.json.

    Args:
        folder: Of the finished confirmation.
        documents: Pairs of the confirmed setting.
        items: The same for question items.
        limits: Registered limits.
        seed: Of bootstrap and permutation.
    """
    floor = read_json(folder / "arm-noise_floor.json")
    reruns = [ItemPair.from_json(row) for row in floor.get("items", [])]
    pairs, made = answers.read_pairs(folder) or ([], {})
    how = ("n_with_example", "max_new_tokens", "n_samples", "temperature")
    missing = None if pairs else "answers_not_generated"
    rows = document_rows(documents)
    worst = [{name: row[name] for name in row if name != "document_id"} for row in rows[:N_DOCUMENTS]]
    return {
        "flips": flips(items, limits, seed) if items else None,
        "flips_reason": None if items else "no_items",
        "slices": slice_rows(items, limits, seed) if items else [],
        "noise_floor": noise_floor(reruns) if reruns else None,
        "noise_floor_reason": None if reruns else "noise_floor_not_measured",
        "documents": {
            "n": len(rows),
            "n_worse": sum(row["bits_per_byte_rise"] > 0 for row in rows),
            "worst": [{"rank": rank, **row} for rank, row in enumerate(worst, start=1)],
        },
        "graded": graded_rows(pairs, limits, seed),
        "graded_reason": missing,
        "answers": written(pairs, seed) | {name: made[name] for name in how} if pairs else None,
        "answers_reason": missing,
    }


def load_test_path(bench: Workbench) -> Path | None:
    """Return the file of the load test: the one the plan names, or the copy that the run kept; None when none is named.

    Raises:
        PocError: The plan names a file that is not there.
    """
    planned = planned_path(bench.settings, bench.settings_path)
    if planned is None:
        return None
    places = [planned] if bench.opened_run is None else [planned, bench.run.path / LOAD_TEST_COPY]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise PocError("the load test of the plan is not there", where=f"cost.load_test: {planned}",
                       todo="put the file there (its form is described in kpis/load_test.py), or set cost.load_test to "
                            "null until the served model has been tested")  # fmt: skip
    return found


def read_load_test(bench: Workbench) -> LoadTest | None:
    """Return the checked records of the load test; None when the plan names none.

    Raises:
        PocError: The file is missing, or is no load test.
    """
    path = load_test_path(bench)
    return None if path is None else load(path)
