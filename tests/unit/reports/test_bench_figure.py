"""The figure of a benchmark as a file of its own, in both languages."""

import xml.etree.ElementTree as ET

import pytest

from reports.bench_figure import bench_figure, write_bench_figure
from reports.errors import CatalogError
from reports.messages import Catalog, messages

SVG = "{http://www.w3.org/2000/svg}"


def _row(rate, speedup, **more):
    return {"phase": "decode", "batch": 1, "prompt": 128, "dtype": "float32", "weights": "float", "group_rows": 0,
            "routing": "random", "skip_rate": rate, "ceiling": 1 / (1 - rate), "speedup": speedup,
            "low": speedup - 0.02, "high": speedup + 0.02} | more  # fmt: skip


ROWS = [
    *(_row(rate, 1 + rate / 2) for rate in (0.0, 0.1, 0.3, 0.5)),
    *(_row(rate, 1 + rate / 3, phase="prefill", batch=4, prompt=512) for rate in (0.1, 0.3)),
    _row(0.2, 1.1, routing="trained"),
]


def _texts(svg):
    return [node.text for node in ET.fromstring(svg).iter(SVG + "text")]


def test_the_figure_speaks_the_language_and_names_its_series(language):
    """Axes, legend, accessible title and description come from the catalog."""
    svg = bench_figure(ROWS, Catalog(language))
    words, root, texts = messages(language), ET.fromstring(svg), _texts(svg)
    series = words["control.bench.series"]

    assert {words["control.bench.x"], words["control.bench.y"], words["control.bench.trained"]} <= set(texts)
    assert series.format(phase=words["phase.decode"], batch=1, prompt=128) in texts
    assert series.format(phase=words["phase.prefill"], batch=4, prompt=512) in texts
    assert root.find(SVG + "title").text == words["control.bench"]
    assert "2" in root.find(SVG + "desc").text


def test_rows_without_a_timing_are_not_drawn():
    """A cell that was left out changes nothing; a document without any timing still gives a figure."""
    left_out = _row(0.4, 1.0) | {"speedup": None, "low": None, "high": None, "ceiling": None, "skip_rate": None}

    assert bench_figure([*ROWS, left_out], Catalog("en")) == bench_figure(ROWS, Catalog("en"))
    assert ET.fromstring(bench_figure([left_out], Catalog("en"))).tag == SVG + "svg"


def test_dtypes_and_rows_at_once_are_told_apart():
    """Two variants of one cell are two series with labels that differ."""
    rows = [*ROWS, _row(0.1, 1.05, dtype="bfloat16"), _row(0.1, 1.05, weights="int8"), _row(0.1, 1.04, group_rows=64)]
    labels = [text for text in _texts(bench_figure(rows, Catalog("en"))) if text and "batch 1" in text]

    assert len(labels) == len(set(labels)) == 4
    assert any("int8" in label for label in labels)
    assert any(label.endswith("64") for label in labels)


def test_intervals_and_ceilings_move_the_drawing():
    """What is measured and what is estimated are both in it, and so is the interval."""
    plain = bench_figure(ROWS, Catalog("en"))
    for change in ({"low": 0.9}, {"ceiling": 1.9}, {"speedup": 1.2}, {"routing": "trained"}):
        assert bench_figure([ROWS[0] | change, *ROWS[1:]], Catalog("en")) != plain


def test_the_same_rows_give_the_same_bytes_in_any_order(tmp_path):
    """No date, no random id, and nothing loaded from elsewhere."""
    path = write_bench_figure(ROWS, tmp_path / "bench.svg", "ja")
    svg = path.read_text("utf-8")

    assert svg == bench_figure(list(reversed(ROWS)), Catalog("ja"))
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_an_unknown_language_is_refused(tmp_path):
    """As everywhere: the known ones are told."""
    with pytest.raises(CatalogError, match="ja"):
        write_bench_figure(ROWS, tmp_path / "bench.svg", "fr")
