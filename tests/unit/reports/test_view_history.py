import pytest

from reports.errors import ReportError, ResultError
from reports.formatting import format_figure
from reports.messages import Catalog
from reports.render import render_history
from reports.result import lookup
from reports.view_history import build_history


def _three(fx):
    weeks = [fx.everything_missing(), fx.insufficient_evidence(), fx.go()]
    for week, result in enumerate(weeks):
        result["run"] |= {"created_at": f"2026-11-{2 + 7 * week:02d}T09:15:00+09:00", "id": f"week-{week}"}
    weeks[0]["plan"]["registered"] = weeks[2]["plan"]["registered"] | {"gates.quality_margin": 0.05}
    return weeks


def test_runs_stand_in_the_order_of_time_with_their_verdicts(fx):
    """Oldest first, whatever order they were named in; four verdicts by icon and word."""
    history = build_history(_three(fx)[::-1], Catalog("ja"))
    assert [row.cells[1].word for row in history.runs.rows] == ["No-Go", "No-Go(証拠不足)", "Go"]
    assert history.runs.rows[0].cells[0].text.startswith("2026年11月2日")
    assert history.gates.columns == ("指標", "1回目", "2回目", "3回目")
    speed = next(row for row in history.gates.rows if row.cells[0].text.startswith("S1"))
    assert [cell.text for cell in speed.cells[1:]] == ["未測定", "1.19倍(1.15倍〜1.23倍)", "1.19倍(1.15倍〜1.23倍)"]


def test_settings_that_differ_are_listed_and_no_others(fx):
    """A changed limit is shown with the value of every run; equal plans are said to be equal."""
    history = build_history(_three(fx), Catalog("ja"))
    differing = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in history.plan.rows}
    assert set(differing) == {"gates.quality_margin"}
    assert differing["gates.quality_margin"][0] == "0.05"
    assert build_history([fx.go(), fx.no_go()], Catalog("ja")).plan.rows == ()


def test_every_figure_of_the_history_is_found_in_its_result(fx, tree, language):
    """Each printed number carries the run and the pointer that it came from."""
    weeks = _three(fx)
    catalog = Catalog(language)
    html = render_history(weeks, language)
    nodes = tree(html).xpath("//*[@data-path]")
    assert len(nodes) > 30
    for node in nodes:
        values = [lookup({"runs": weeks}, path) for path in node.get("data-path").split(" ")]
        if "missing" in node.get("class"):
            assert None in values
        else:
            assert node.text_content().strip() == format_figure(node.get("data-kind"), values, catalog)
    assert html == render_history(weeks[::-1], language)
    assert len(html.encode()) < 100_000


def test_hostile_titles_and_settings_are_inert_in_the_history(fx, tree):
    """Markup in any result stays text."""
    document = tree(render_history([fx.hostile(0), fx.hostile(1), fx.hostile(5)], "en"))
    assert len(document.xpath("//script")) == 1
    assert document.xpath("//img | //*[@onload or @onerror]") == []


def test_nothing_to_compare_or_half_a_result_is_refused(fx):
    """An error instead of an empty or false page."""
    with pytest.raises(ReportError, match="at least one"):
        render_history([], "ja")
    with pytest.raises(ResultError):
        render_history([fx.go(), fx.go() | {"gates": []}], "ja")
