"""The committed sample data, and the functions that made them."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from lxml import html

import flows
from flows.ingest import ingest
from flows.questions import load_questions, select_items
from flows.sample.build_pages import page_blocks, read_page, tidy
from flows.sample.build_questions import question_lines
from flows.sample.build_tables import Directive, directives_of
from flows.terms import load_glossary

SAMPLE = Path(flows.__file__).parent / "sample"
QUESTIONS = load_questions(SAMPLE / "questions.jsonl")
KANA = "\u3040-\u30ff\u4e00-\u9fff"

PAGE = """<html><body><div id="page-header">nav</div><div id="page-content"><div id="preamble"><h1>コア</h1>
<div class="toplang">en | ja</div></div><div id="quickview"><ul id="toc"><li>KeepAlive</li></ul></div>
<div class="directive-section"><h2 id="k"><span id="KeepAlive">KeepAlive</span> ディレクティブ
<a class="permalink" href="#k">&para;</a></h2><table class="directive">
<tr><th><a href="d.html#Description">説明:</a></th><td>持続的接続を
有効にする</td></tr>
<tr><th><a href="d.html#Default">デフォルト:</a></th><td><code>KeepAlive On</code></td></tr>
<tr><th><a href="d.html#Status">ステータス:</a></th><td>Core</td></tr></table>
<p>この <code>KeepAlive</code> は
接続を
保ちます。<br>次の行。</p><pre>KeepAlive On</pre></div>
<div class="directive-section"><h2><span id="New">New</span> ディレクティブ</h2><table class="directive">
<tr><th><a href="d.html#Description">説明:</a></th><td>Not translated</td></tr></table>
<p>このディレクティブの解説文書はまだ翻訳されていません。英語版をご覧ください。</p></div></div></body></html>"""


@pytest.fixture
def page(tmp_path: Path) -> html.HtmlElement:
    """Content of a small manual page with one translated directive."""
    path = tmp_path / "core.html"
    path.write_text(PAGE, encoding="utf-8")
    return read_page(path)


def test_page_becomes_clean_blocks(page: html.HtmlElement) -> None:
    """Boxes, listings, permalinks and untranslated sections go; broken Japanese lines are joined without a space."""
    assert page_blocks(page, "ja") == [
        "コア",
        "KeepAlive ディレクティブ",
        "説明: 持続的接続を有効にする",
        "デフォルト: KeepAlive On",
        "この KeepAlive は接続を保ちます。",
        "次の行。",
    ]


def test_directive_tables_are_read(page: html.HtmlElement) -> None:
    """The default loses the directive's name; a table in the other language is not a fact of this one."""
    (directive,) = directives_of(page, "ja", "mod_core")
    assert (directive.name, directive.default) == ("KeepAlive", "On")
    assert directive.description == "持続的接続を有効にする"


def test_tidy_keeps_spaces_beside_latin_words() -> None:
    """Only spaces between two Japanese characters or before punctuation go."""
    assert tidy("アドレス に 対して IP アドレス 、¶ 次 の ( foo )") == "アドレスに対して IP アドレス、次の (foo)"


def _directive(index: int, default: str) -> Directive:
    return Directive(f"Name{index}x", "en", "mod_a", f"Purpose number {index}", "", default, "server config", "mod_a")


def test_wrong_answers_come_from_the_same_module() -> None:
    """Four directives of one module and one of another: all choices of a description item are of the module."""
    rows = [_directive(i, str(10 * i)) for i in range(1, 5)]
    other = Directive("Other", "en", "mod_b", "Another purpose", "", "7", "directory", "mod_b")
    lines = [line for line in question_lines([*rows, other], {}) if '"slice":"en_directive"' in line]
    assert len(lines) == 16
    assert not any("Other" in line for line in lines)


def test_corpus_has_no_remains() -> None:
    """No mark-up, permalink, repeated space or space inside Japanese is left in the text files."""
    files = sorted((SAMPLE / "corpus").rglob("*.txt"))
    assert len(files) == 150
    fault = re.compile(rf"¶|<a |&nbsp;|  |[{KANA}] [{KANA}]|まだ翻訳されていません|This translation may be out of date")
    faults = [path.name for path in files if fault.search(path.read_text(encoding="utf-8"))]
    assert faults == []


def test_glossary_has_pairs_and_directives() -> None:
    """Both languages of the manual's glossary and the directive names load; plain words such as If do not match."""
    terms = load_glossary(SAMPLE / "glossary.csv")
    assert Counter(term.kind for term in terms) == {"glossary": 111, "directive": 357}
    names = {term.term for term in terms}
    assert {"証明書", "Certificate", "AllowOverride", "<If>"} <= names
    assert "If" not in names


def test_questions_are_balanced_and_complete() -> None:
    """Every fact has four templates with the last held out, and the right place is even in every slice."""
    per_fact = Counter((q.slice, q.group) for q in QUESTIONS)
    assert set(per_fact.values()) == {4}
    assert all(q.held_out == q.template_id.endswith("_4") for q in QUESTIONS)
    for name in {q.slice for q in QUESTIONS}:
        places = Counter(q.answer for q in QUESTIONS if q.slice == name)
        assert max(places.values()) - min(places.values()) <= 4
    assert 20 <= len({(q.language, q.group) for q in QUESTIONS if q.must_pass}) <= 40


def test_sources_of_questions_are_in_the_corpus() -> None:
    """Each item names a document that is there and mentions a directive of the item."""
    texts = {
        name: (SAMPLE / "corpus" / name).read_text(encoding="utf-8") for name in {q.source_document for q in QUESTIONS}
    }
    assert all(q.group.split("/")[1] in texts[q.source_document] for q in QUESTIONS)


@pytest.mark.parametrize("choose", [max, min])
def test_length_does_not_give_the_answer_away(choose: Callable[..., int]) -> None:
    """Taking the longest (or the shortest) choice is right in about one of four items of a kind."""
    for kind in ("directive", "default", "module", "context"):
        items = [q for q in QUESTIONS if q.held_out and q.slice.endswith(kind)]
        right = sum(_by_length(choose, q.choices) == q.answer for q in items)
        assert 0.1 <= right / len(items) <= 0.34


def _by_length(choose: Callable[..., int], choices: Sequence[str]) -> int:
    return choose(range(len(choices)), key=lambda index: len(choices[index]))


def test_test_split_is_large_enough() -> None:
    """At least 500 test items and 300 validation items can be chosen."""
    n_items = [len(select_items(QUESTIONS, split, 10_000, seed=1)) for split in ("test", "validation")]
    assert n_items[0] >= 500
    assert n_items[1] >= 300


def test_sample_is_ingested_whole(tmp_path: Path) -> None:
    """No sample file is quarantined, both languages are held out, and every kind of span occurs in every split."""
    manifest = ingest(
        SAMPLE / "corpus",
        SAMPLE / "glossary.csv",
        tmp_path,
        validation_share=0.15,
        test_share=0.15,
        seed=1,
        min_characters=200,
    )
    assert manifest["quarantine"] == []
    assert {(row["split"], row["language"]) for row in manifest["files"]} == {
        (split, language) for split in ("train", "validation", "test") for language in ("ja", "en")
    }
    assert all(n > 0 for spans in manifest["totals"]["n_spans"].values() for n in spans.values())
