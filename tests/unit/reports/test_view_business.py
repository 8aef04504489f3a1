from dataclasses import replace

import pytest

from reports import charts, charts_money
from reports.messages import Catalog
from reports.view import build_view
from reports.view_parts import Figure


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    """Charts have their own tests; drawing them here would only cost time."""
    for module, names in (
        (charts, ("quality_map", "layer_bars", "time_chart")),
        (charts_money, ("money_bars", "tornado")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, **__: "<svg/>")


def _view(result, language="ja"):
    return build_view(result, Catalog(language))


def _facts(table):
    """Name and text of a table of facts."""
    return {row.cells[0].text: getattr(row.cells[1], "text", None) or row.cells[1].word for row in table.rows}


def test_the_controller_finds_return_break_even_and_reach(fx):
    """Return with its range, the break-even volume, and whether the machines can serve so many."""
    facts = _facts(_view(fx.go()).cost.economics.returns)
    assert facts["投資利益率(投資と維持費に対して)"] == "+384.2%(80%の範囲 +121.3%〜+512.7%)"
    assert facts["損益分岐の月間件数(SkipLayer)"] == "3,021,457件"
    assert facts["損益分岐に届くか(SkipLayer)"] == "この台数で処理できる範囲です。"
    assert "処理できる量を超えています" in facts["損益分岐に届くか(密モデル)"]
    assert facts["正答1件あたりの費用(公開API)"] == "未測定"


def test_a_return_on_nothing_is_undefined_with_its_reason(fx):
    """Nothing spent has no return, which is said and is not 0 %."""
    result = fx.go()
    nothing = dict.fromkeys(("p10", "p50", "p90", "prob_positive"))
    result["economics"]["roi"] = nothing | {"reason": "nothing_spent"}
    cell = _view(result).cost.economics.returns.rows[0].cells[1]
    assert (cell.text, cell.is_missing) == ("計算できない", True)
    assert "投資も維持費もない" in cell.reason


def test_the_planned_spot_share_and_cadence_stand_out(fx):
    """The planned rows are marked; without a plan none is, and a missing spot price is a sentence."""
    money = _view(fx.go()).cost.economics
    assert [row.mark for row in money.spot.rows] == ["chosen", ""]
    assert [row.mark for row in money.tuning.rows] == ["", "chosen", ""]
    assert "維持費に含めています" in money.tuning.note
    money = _view(fx.functional_check_no_go()).cost.economics
    assert money.spot.rows == ()
    assert "スポット価格が価格表にありません" in money.spot.empty
    assert {row.mark for row in money.tuning.rows} == {""}
    assert "計画に入っていません" in money.tuning.note


def test_energy_that_no_meter_read_is_missing_with_its_reason(fx):
    """No estimate stands in for a reading."""
    for row in _view(fx.go()).cost.economics.energy.rows:
        assert all(cell.is_missing and "測定していません" in cell.reason for cell in row.cells[1:])


def test_a_better_rival_speaks_against_skipping(fx):
    """State, reason and paired difference of every rival; one without a record is not measured."""
    rows = _view(fx.functional_check_no_go()).evidence.rivals.rows
    assert [row.cells[5].word for row in rows] == ["こちらが良い", "良いとは示されていない"]
    assert [row.cells[5].code for row in rows] == ["fail", "info"]
    assert "速度が測られていません" in rows[1].cells[6].text
    missing = _view(fx.no_threshold()).evidence.rivals.rows[0].cells
    assert (missing[1].is_missing, missing[2].is_missing) == (True, True)
    assert missing[5].word == "未測定"


def test_flips_stand_beside_the_noise_floor(fx):
    """Harmful, helpful, all, then what two dense runs differ by; the note counts independent questions."""
    table = _view(fx.go(), "en").evidence.flips
    assert [row.cells[0].text for row in table.rows[:3]] == ["Right became wrong", "Wrong became right", "Either way"]
    assert [row.cells[2].text for row in table.rows] == ["1,200"] * 3 + ["32"] * 2
    assert table.rows[0].cells[1].text.startswith("1.2%")
    assert "400 sources" in table.note
    assert "992 independent" in table.note
    assert "less than 1.2 points" in table.note


def test_flips_without_questions_say_why(fx):
    """A confirmation without questions has no flips, which is a sentence and not a row of zeros."""
    result = fx.go()
    result["detail"] |= {"flips": None, "flips_reason": "no_items", "slices": [], "noise_floor": None}
    table = _view(result).evidence.flips
    assert table.rows == ()
    assert "質問がありません" in table.empty


def test_the_noise_floor_is_a_share_of_what_was_run_twice(fx):
    """3 of the 32 questions that were answered twice, not of all 1,200."""
    facts = _facts(_view(fx.go()).evidence.confirmation)
    assert facts["密モデル同士の再実行で変わった回答"].startswith("3 / 32件")


def test_slices_documents_and_grades_are_in_the_details(fx):
    """Small slices have no bounds, documents have no names, and each metric has its own row."""
    tables = {table.name: table for table in _view(fx.go()).details.tables}
    assert [row.cells[4].text for row in tables["slices"].rows] == ["−1.4ポイント", "−1.2ポイント", "—"]
    assert [cell.text for cell in tables["documents"].rows[0].cells[:2]] == ["1", "1,024"]
    assert "22文書のうち15文書" in tables["documents"].note
    assert [row.cells[6].text for row in tables["graded"].rows] == ["0.271", "0.001未満"]
    tables = {table.name: table for table in _view(fx.functional_check_no_go()).details.tables}
    assert "計画にありません" in tables["graded"].empty


def test_responses_say_under_which_load(fx):
    """The load asked for and sent, or that requests ran one at a time and the peak is not shown yet."""
    facts = _facts(_view(fx.go()).load)
    assert facts["求める負荷に届いたか"] == "届いた"
    assert facts["約束した二つの時間を守れた割合(95%区間)"].startswith("99.8%")
    facts = _facts(_view(fx.no_go()).load)
    assert facts["求める負荷に届いたか"] == "届いていない"
    assert "求められません" in facts["その後の1トークンあたりの99パーセンタイル"]
    table = _view(fx.functional_check_no_go()).load
    assert table.rows == ()
    assert "毎秒5.00件" in table.empty


def test_a_result_of_an_older_version_is_still_shown(fx, language):
    """Without the newer parts every table says that it is empty, and nothing else changes."""
    result, older = fx.go(), fx.go()
    for name in ("detail", "rivals", "economics"):
        del older[name]
    del older["responses"]["basis"], older["responses"]["load_test"]
    view, whole = _view(older, language), _view(result, language)
    money = view.cost.economics
    empty = [
        money.returns,
        money.spot,
        money.tuning,
        money.energy,
        view.evidence.rivals,
        view.evidence.flips,
        view.load,
    ]
    assert [table.name for table in empty if table.rows or not table.empty] == []
    # Whether something simpler is better is the one question that such a result cannot answer.
    assert [left.place for left, right in zip(view.conclusion.questions, whole.conclusion.questions, strict=True)
            if left != right] == ["rivals"]  # fmt: skip
    assert replace(view.conclusion, questions=()) == replace(whole.conclusion, questions=())
    assert view.evidence.gates == whole.evidence.gates
    assert isinstance(view.evidence.confirmation.rows[5].cells[1], Figure)
    slices = next(table for table in view.details.tables if table.name == "slices")
    assert [row.cells[6].text for row in slices.rows] == ["—"] * len(older["confirmation"]["slices"])
