"""The bench of the KPIs: what it does and writes; the times themselves are nobody's business here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import kpis as bench


def test_every_kind_of_kpi_is_timed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand items: the last line is the history file's document, totals add up, and a verdict came out."""
    assert bench.main(["--n", "1000", "--history", str(tmp_path)]) == 0

    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text("utf-8")) == document
    names = [row["name"] for row in document["rows"]]
    assert {"sweep_row", "bounds", "flips", "slices_holm", "graded_permutation", "cost", "verdict"} <= set(names)
    assert len(set(names)) == len(names)
    assert document["total_cpu_s"] == pytest.approx(sum(row["cpu_s"] for row in document["rows"]), abs=1e-3)
    assert (document["n_items"], document["n_clusters"], document["n_slices"]) == (1000, 501, 8)
    assert document["verdict"] in ("go", "conditional_go", "no_go", "no_go_insufficient_evidence")
