import re

import pytest

from reports.errors import ResultError
from reports.summary import escaped, render_summary


def test_the_summary_holds_the_first_screen(fx, situation, language):
    """Verdict, reason, evidence, five rows of one table, next actions and the marker."""
    result = fx.BUILDERS[situation]()
    text = render_summary(result, language)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 7
    assert {line.count("|") for line in rows} == {6}
    assert [re.match(r"\| (\w+)", row)[1] for row in rows[2:]] == ["Q1", "Q4", "S1", "C3", "D1"]
    assert text.startswith("# ")
    assert ("機能確認用" in text or "Functional check" in text) is (result["verdict"]["banner"] is not None)


def test_the_summary_of_a_no_go_reads_as_it_should(fx):
    """The sentences of a real case."""
    text = render_summary(fx.functional_check_no_go(), "ja")
    assert text == render_summary(fx.functional_check_no_go(), "ja")
    lines = text.splitlines()
    assert "**判定: ✖ No-Go**" in lines
    assert "層を省略しても、実際の時間は基準まで短くなりませんでした。" in lines
    assert "| S1 実測の速さ | 0.94倍 | 95%区間 0.91倍〜0.98倍 | 下限が1.10倍以上 | ✖ 不合格 |" in lines
    assert "1. 当面は密モデルのまま運用する。" in lines


@pytest.mark.parametrize("offset", [0, 3, 6])
def test_hostile_text_adds_no_markup(fx, offset):
    """No tag, link, emphasis or table cell comes from outside, and no line is added."""
    text = render_summary(fx.hostile(offset), "en")
    assert not re.search(r"(?<!\\)[<>`]", text.replace("\n> ", "\n"))
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 7
    assert not re.search("[\x00\u202a-\u202e\u200b\ufeff]", text)


def test_escaping_leaves_nothing_that_markdown_reads():
    """Each special character gets a backslash; line breaks become spaces."""
    assert escaped("a|b\n[x](y) <i> `c` *d* _e_ #f ~g~ \\") == (r"a\|b \[x\](y) \<i\> \`c\` \*d\* \_e\_ \#f \~g\~ \\")


def test_an_invalid_result_gives_no_summary(fx):
    """Half a result is an error here as well."""
    with pytest.raises(ResultError):
        render_summary(fx.go() | {"gates": []}, "ja")
