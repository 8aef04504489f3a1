"""The figure of a comparison as a file of its own, in both languages."""

import itertools
import xml.etree.ElementTree as ET

import pytest

from reports.compare_figure import ABLATIONS, STYLES, compare_figure, write_figures
from reports.errors import CatalogError
from reports.messages import Catalog, messages
from reports.svg import PALETTE
from skipmodel.config_compare import ABLATIONS as COMPARED_ABLATIONS
from skipmodel.config_compare import METHODS

SVG = "{http://www.w3.org/2000/svg}"


def _row(method, rate, rise, seed=0, width=0.002):
    low, high = (None, None) if width is None else (rise - width, rise + width)
    return {"method": method, "seed": seed, "target_skip_rate": round(rate, 2), "skip_rate": rate, "ppl_rise": rise,
            "low": low, "high": high}  # fmt: skip


ROWS = [
    _row("dense_tuned", 0.0, 0.0),
    _row("int8", 0.0, 0.004),
    *(_row("skiplayer", rate, rate / 20, seed) for rate in (0.1, 0.2, 0.3) for seed in (0, 1)),
    *(_row("random_mask", rate, rate * 400) for rate in (0.1, 0.2, 0.3)),
]


def _texts(svg):
    return [node.text for node in ET.fromstring(svg).iter(SVG + "text")]


def test_every_method_has_a_label_and_a_style(language):
    """No method that can be compared is shown as a bare code, and no two look alike in one figure."""
    assert {f"control.{method}" for method in METHODS} <= messages(language).keys()
    assert set(STYLES) == set(METHODS)
    assert set(ABLATIONS) == set(COMPARED_ABLATIONS)
    for shown in (set(STYLES) - set(ABLATIONS), {*ABLATIONS, "skiplayer", "dense_tuned"}):
        looks = [STYLES[method] for method in shown]
        assert len(looks) == len(set(looks))
    labels = [messages(language)[f"control.{method}"] for method in METHODS]
    assert len(labels) == len(set(labels))


def test_the_figure_speaks_the_language_and_names_its_methods(language):
    """Legend, axes, accessible title and description come from the catalog; rates are executed work."""
    root = ET.fromstring(compare_figure(ROWS, Catalog(language)))
    texts = _texts(compare_figure(ROWS, Catalog(language)))
    words = messages(language)

    expected = ["control.skiplayer", "control.random_mask", "control.int8", "control.chart.x", "axis.ppl_rise"]
    assert {words[key] for key in expected} <= set(texts)
    assert words["control.early_exit"] not in texts
    assert {"90%", "80%", "70%"} <= set(texts)
    assert root.find(SVG + "title").text == words["control.chart"]
    assert "4" in root.find(SVG + "desc").text


def test_the_file_needs_no_page_around_it():
    """It brings every colour class it uses, a background and a font; nothing is loaded from elsewhere."""
    svg = compare_figure(ROWS, Catalog("ja"))
    root = ET.fromstring(svg)
    style = root.find(SVG + "style").text
    used = {name for node in root.iter() for name in node.get("class", "").split()}

    assert {f".{name}{{" in style for name in used} == {True}
    assert root.find(SVG + "rect").get("fill") == "#ffffff"
    assert all(colour in style for colour in PALETTE)
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def _marks(svg, method, legend_from=700):
    """Places of a method's marks in page pixels, the legend's left out."""
    colour = STYLES[method][1]
    names = {colour, f"f-{PALETTE.get(colour, '')}"}
    uses = [node for node in ET.fromstring(svg).iter(SVG + "use") if names & {node.get("fill"), *_classes(node)}]
    places = [(float(node.get("x")), float(node.get("y"))) for node in uses]
    return [place for place in places if place[0] < legend_from]


def _classes(node):
    return node.get("class", "").split()


def test_better_is_lower_and_cheaper_is_further_right():
    """Skipping more moves a mark to the right; a worse method's marks stand higher."""
    one = compare_figure([_row("static_path", 0.1, 0.01), _row("static_path", 0.3, 0.5)], Catalog("en"))
    marks = _marks(one, "static_path")

    assert len(marks) == 2
    assert marks[0][0] < marks[1][0]
    assert marks[0][1] > marks[1][1]


def test_values_a_thousand_times_apart_fit_one_scale():
    """The axis is marked from below 2 % to ten thousands of percent."""
    texts = _texts(compare_figure(ROWS, Catalog("en")))

    assert {"0%", "+2%", "+100%", "+10,000%"} <= set(texts)


def test_seeds_become_one_line():
    """Three seeds give one mark per rate, with the bounds of the widest reach; no interval is drawn as a point."""
    rows = [_row("skiplayer", 0.1, 0.01, seed) for seed in range(3)] + [_row("skiplayer", 0.2, 0.02, 0, None)]
    one_seed = [_row("skiplayer", 0.1, 0.01), _row("skiplayer", 0.2, 0.02, 0, None)]

    assert compare_figure(rows, Catalog("en")) == compare_figure(one_seed, Catalog("en"))
    wider = [*rows, _row("skiplayer", 0.1, 0.01, 3, 0.008)]
    assert compare_figure(wider, Catalog("en")) != compare_figure(rows, Catalog("en"))


def test_a_method_of_a_newer_version_is_shown_by_its_code():
    """An unknown method gets a plain style and its name, not an error."""
    texts = _texts(compare_figure([*ROWS, _row("brand_new", 0.2, 0.1)], Catalog("en")))

    assert any("brand_new" in text for text in texts)


def test_ablations_have_a_file_of_their_own(tmp_path):
    """Written only when there are some, with the own method beside them and the rivals left out."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    alone.mkdir()
    both.mkdir()
    assert [path.name for path in write_figures(ROWS, alone, "ja")] == ["compare.svg"]
    files = write_figures([*ROWS, _row("kv_drop", 0.2, 0.1)], both, "ja")

    assert [path.name for path in files] == ["compare.svg", "compare_ablations.svg"]
    words = messages("ja")
    main, ablations = (_texts(path.read_text("utf-8")) for path in files)
    assert words["control.kv_drop"] not in main
    assert {words["control.kv_drop"], words["control.skiplayer"]} <= set(ablations)
    assert words["control.random_mask"] not in ablations
    ids = [node.get("id") for path in files for node in ET.fromstring(path.read_text("utf-8")).iter() if node.get("id")]
    assert len(ids) == len(set(ids))


def test_the_same_rows_give_the_same_bytes():
    """No date and no random id; the order of the rows does not matter."""
    assert compare_figure(ROWS, Catalog("ja")) == compare_figure(ROWS, Catalog("ja"))
    assert compare_figure(list(reversed(ROWS)), Catalog("ja")) == compare_figure(ROWS, Catalog("ja"))


def test_legend_lines_do_not_run_into_each_other():
    """Even with every method in the main figure the legend keeps a line's height per entry, within the drawing."""
    rows = [_row(method, 0.2, 0.1) for method in METHODS if method not in ABLATIONS]
    root = ET.fromstring(compare_figure(rows, Catalog("ja")))
    labels = {messages("ja")[f"control.{row['method']}"] for row in rows}
    heights = []
    for node in root.iter(SVG + "text"):
        if node.text in labels:
            words = node.get("transform", "").replace("(", " ").replace(")", " ").split()
            heights.append(float(words[2]) if words and words[0] == "translate" else float(node.get("y")))

    assert len(heights) == len(rows)
    assert min(b - a for a, b in itertools.pairwise(sorted(heights))) >= 16
    assert max(heights) < 560


def test_an_unknown_language_is_refused(tmp_path):
    """As everywhere: the known ones are told."""
    with pytest.raises(CatalogError, match="ja"):
        write_figures(ROWS, tmp_path, "fr")
