from reports.messages import Catalog
from reports.view_levels import build
from reports.view_parts import Reader


def _levels(result, language="ja"):
    return build(Reader(result, Catalog(language)))


def test_every_measured_setting_has_a_row_and_nothing_between_them(fx):
    """Rows are the sweep's points; the tiles start at the chosen one and show cells of the table."""
    result = fx.go()
    levels = _levels(result)
    assert [row.point for row in levels.table.rows] == [row["index"] for row in result["sweep"]]
    assert levels.start == 3
    assert [tile.cell for tile in levels.tiles] == [levels.table.rows[3].cells[tile.column] for tile in levels.tiles]


def test_time_and_money_are_shown_where_they_were_measured_only(fx):
    """At other settings than the chosen one the table says that there is no measurement."""
    rows = _levels(fx.go()).table.rows
    assert rows[0].cells[5].text == "基準(省略なし)"
    assert rows[3].cells[5].text == "1.19倍(95%区間 1.15倍〜1.23倍)"
    assert rows[3].cells[6].text == "54.3万円"
    assert rows[4].cells[5].text == "測っていません(選んだ設定だけ)"
    assert rows[4].cells[6].text == "計算していません(選んだ設定だけ)"


def test_the_difference_in_accuracy_is_that_of_the_two_stored_values(fx):
    """Subtraction in decimal arithmetic; a setting without questions is not measured."""
    result = fx.go()
    result["sweep"][2] |= {"item_accuracy": 0.7, "item_accuracy_dense": 0.73, "item_delta_low": -0.051}
    result["sweep"][4] |= {"item_accuracy": None, "item_accuracy_dense": None, "item_delta_low": None}
    rows = _levels(result).table.rows
    assert rows[2].cells[2].text == "−3.0(片側95%下限 −5.1)ポイント"
    assert rows[4].cells[2].text == "未測定"


def test_without_a_sweep_there_is_no_slider(fx):
    """No points, no tiles, and the table says why."""
    levels = _levels(fx.everything_missing(), "en")
    assert levels.tiles == ()
    assert levels.table.rows == ()
    assert levels.table.empty
