import itertools
import xml.etree.ElementTree as ET

import pytest

from reports.chart_labels import place_labels
from reports.chart_style import Mark, Words, drawing
from reports.charts import layer_bars, quality_map, time_chart
from reports.charts_money import Bar, Swing, money_bars, tornado

SVG = "{http://www.w3.org/2000/svg}"
WORDS = Words("map", "題名 <b>", "説明 & more", "横軸", "縦軸")


def _map(marks):
    return quality_map(marks, WORDS, 0.05, "上限", "{label} {value} off")


def _texts(svg):
    return [node.text for node in ET.fromstring(svg).iter(SVG + "text")]


MARKS = [
    Mark(0.1, 0.01, 0.0, 0.02, "sweep", "", 1),
    Mark(0.2, 0.03, 0.02, 0.04, "chosen", "選択", 2),
    Mark(0.2, 4.2, 4.0, 4.4, "random_mask", "無作為"),
]


def test_charts_fit_a_strict_content_security_policy():
    """No style attribute, style element, script, or reference outside the chart."""
    for svg in (
        _map(MARKS),
        layer_bars([0.0, 0.2, 0.1], frozenset({0}), WORDS, "always"),
        time_chart(MARKS[:2], WORDS, "ms"),
        money_bars([Bar("密", 10.0, "10円", "dense")], WORDS),
        tornado([Swing("x", -1.0, 2.0, "-1", "2")], WORDS, 0.5, "mid"),
    ):
        root = ET.fromstring(svg)
        assert [node.tag for node in root.iter() if "style" in node.attrib or node.tag.endswith("style")] == []
        references = [node.get("href") for node in root.iter() if node.get("href")]
        assert all(reference.startswith("#map-") for reference in references)
        ids = [node.get("id") for node in root.iter() if node.get("id")]
        assert len(ids) == len(set(ids))
        assert all(identity.startswith("map-") for identity in ids)


def test_a_chart_has_title_description_and_text_as_text():
    """Screen readers get title and description, labels stay text, and markup in them is inert."""
    root = ET.fromstring(_map(MARKS))
    assert root.get("role") == "img"
    assert root.find(SVG + "title").text == "題名 <b>"
    assert root.find(SVG + "desc").text == "説明 & more"
    assert {"横軸", "縦軸", "選択", "上限"} <= set(_texts(_map(MARKS)))


def test_a_point_far_above_the_others_is_written_out_instead_of_flattening_the_chart():
    """The random mask sits on the edge with its value; the sweep keeps its scale."""
    texts = _texts(_map(MARKS))
    assert "無作為 +420% off" in texts
    assert not any(text.startswith("+100") for text in texts)


def test_points_carry_their_sweep_index_for_the_slider():
    """Each sweep point can be found by the index of its table row."""
    points = [node.get("data-point") for node in ET.fromstring(_map(MARKS)).iter() if node.get("data-point")]
    assert points == ["1", "2"]


def _place(points, bars=()):
    words = Words("map", "", "")
    with drawing(words, 760, 440, (62, 26, 52, 40)) as (axes, _):
        axes.set_xlim(-0.01, 0.27)
        axes.set_ylim(-0.015, 0.275)
        return place_labels(axes, points, bars, [])


def test_labels_of_crowded_marks_cover_neither_each_other_nor_a_mark():
    """Six marks within a twentieth of the chart, as a cautious run gives them: all labels stay apart."""
    points = [(0.0, 0.0, "密モデル・全層実行"), (0.033, 0.04, "層の固定削除"), (0.047, 0.013, "選んだ設定")]
    points += [(0.054, 0.019, "保護なし"), (0.046, 0.02, "無作為な省略"), (0.024, 0.011, ""), (0.0, 0.01, "元のモデル")]
    places = _place(points)
    assert len(places) == 6
    for one, other in itertools.combinations(places, 2):
        assert one.overlap(other) == 0


def test_a_label_moves_off_an_interval_bar():
    """A bar right of the mark sends the label to another side."""
    free, moved = _place([(0.1, 0.1, "選択")])[0], _place([(0.1, 0.1, "選択")], [(0.11, 0.0, 0.2)])[0]
    assert free.left > moved.left


def _rows(swing):
    svg = tornado([Swing("wide", -9.0, 9.0, "-9", "9"), swing], WORDS, 0.5, "mid")
    return [text for text in _texts(svg) if "▽" in text or "▲" in text]


def test_tornado_texts_stand_outside_their_bars():
    """Ends on both sides: one text each. On one side: side by side, nearer end first. Alike: one text."""
    assert {"▽ -1", "▲ 2"} <= set(_rows(Swing("x", -1.0, 2.0, "-1", "2")))
    assert "▲ 1  ▽ 4" in _rows(Swing("x", 4.0, 1.0, "4", "1"))
    assert "▽ -4  ▲ -1" in _rows(Swing("x", -4.0, -1.0, "-4", "-1"))
    assert "▽▲ 1" in _rows(Swing("x", 1.0, 1.0, "1", "1"))


def test_the_same_numbers_give_the_same_bytes():
    """No date, no random id."""
    assert _map(MARKS) == _map(MARKS)


@pytest.mark.parametrize("text", ["$\\alpha$", "a_b^c", "%s {0}"])
def test_labels_are_never_interpreted(text):
    """Dollar signs and braces in names are plain text."""
    assert text in _texts(money_bars([Bar(text, 1.0, "1円", "api")], WORDS))
