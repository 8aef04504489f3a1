import pytest

from reports.messages import Catalog
from reports.view_parts import Reader
from reports.view_questions import build

CHECKLIST = {
    # what a manager asks: where the page answers it
    "ask.go": "conclusion",
    "ask.quality": "gates",
    "ask.critical": "gates",
    "ask.speed": "speed",
    "ask.saving": "cost",
    "ask.payback": "cost",
    "ask.simpler": "rivals",
    "ask.untested": "risks",
    "ask.risks": "risk-register",
    "ask.next": "roadmap",
}


def _answers(result, language="ja"):
    catalog = Catalog(language)
    by_question = {answer.question: answer for answer in build(Reader(result, catalog))}
    return {key: by_question[catalog.text(key)] for key in CHECKLIST}


def test_the_ten_questions_are_answered_on_the_first_screen_with_a_place_on_the_page(
    fx, page, tree, situation, language
):
    """Each question has words or a state as its answer, and its link leads to an element that is there."""
    answers = _answers(fx.BUILDERS[situation](), language)
    assert {key: answer.place for key, answer in answers.items()} == CHECKLIST
    assert [key for key, answer in answers.items() if not (answer.answer or answer.state)] == []
    document = tree(page(situation, language))
    links = document.xpath("//section[@id='conclusion']//*[contains(@class, 'asked')]//a/@href")
    assert links == [f"#{place}" for place in CHECKLIST.values()]
    ids = document.xpath("//@id")
    assert [link for link in links if link[1:] not in ids] == []


@pytest.mark.parametrize(
    ("name", "key", "text"),
    [
        ("go", "ask.go", "Go"),
        ("insufficient_evidence", "ask.go", "No-Go(証拠不足)"),
        ("go", "ask.saving", "54.3万円減る見込み"),
        ("functional_check_no_go", "ask.saving", "減らない(4.8万円増える見込み)"),
        ("everything_missing", "ask.saving", ""),
        ("go", "ask.next", "判断: 情報システム部 山田 花子、予定日: 2026年11月30日"),
        ("everything_missing", "ask.simpler", "比較していない"),
        ("functional_check_no_go", "ask.simpler", "ある(層の固定削除)"),
        ("go", "ask.untested", "1項目(S5)"),
    ],
)
def test_answers_say_what_the_result_says(fx, name, key, text):
    """Verdict, saving with its direction, owner and day, simpler methods and gaps, in words."""
    assert _answers(fx.BUILDERS[name]())[key].answer == text


def test_what_was_not_measured_is_said_once_and_without_a_number(fx):
    """A gate that was not measured answers with its state alone."""
    answer = _answers(fx.everything_missing())["ask.speed"]
    assert (answer.answer, answer.state.word) == ("", "未測定")


def test_nothing_missing_is_said_as_such(fx):
    """With every indicator measured, the question about gaps says so."""
    result = fx.go()
    for gate in result["gates"]:
        gate["state"] = "pass" if gate["state"] == "not_measured" else gate["state"]
    assert _answers(result, "en")["ask.untested"].answer == "Every indicator was measured"
