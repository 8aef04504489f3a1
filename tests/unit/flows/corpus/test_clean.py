"""Clean text: one Unicode form, pages, paragraphs, boilerplate lines and the language."""

import pytest

from flows.corpus.clean import CleanConfig, LineCounts, clean, drop_lines, language_of

PLAIN = CleanConfig()
NFKC = CleanConfig(nfkc=True)
AS_IS = CleanConfig(half_width_kana=False, unwrap_lines=False, drop_running_lines=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffか\u3099 \r\nb\t\rc", "が\nb\nc\n"),
        ("a\u2028b\x85c\x0bd", "a\nb\nc\nd\n"),
        ("a\n\n\n\n\nb\n\n\n", "a\n\nb\n"),
        ("so\u00adft, ze\u200bro, fi\u00a0xed", "soft, zero, fi xed\n"),
        ("", "\n"),
        ("ﾃﾞｰﾀﾍﾞｰｽ､ｻｰﾊﾞ｡", "データベース、サーバ。\n"),
        ("10² ① ½ Ａ１ ㈱", "10² ① ½ Ａ１ ㈱\n"),
    ],
)
def test_clean(text: str, expected: str) -> None:
    """Characters are composed, line ends unified, invisible ones and half-width kana gone, the rest stays."""
    assert clean(text, PLAIN) == expected


def test_nfkc_keeps_what_would_change_its_meaning() -> None:
    """Width and ligatures go; superscripts, subscripts, fractions and circled numbers stay."""
    assert clean("Ａ１㈱ ﬁle 10² H₂O ① ½", NFKC) == "A1(株) file 10² H₂O ① ½\n"


def test_settings_switch_each_step_off() -> None:
    """Half-width kana, wrapped lines and running lines stay as they are."""
    text = "ﾃﾞｰﾀ\nThis line was wrapped at the seventieth column of a page, which is why it\ngoes on here.\f1\f2\f3"
    assert clean(text, AS_IS) == text.replace("\f", "\n\n", 1).replace("\f", "\n") + "\n"


def _pages(*pages: str) -> str:
    return clean("\f".join(pages), PLAIN)


def test_headers_footers_and_page_numbers_are_removed() -> None:
    """What runs along all pages goes, whatever number it has; the text stays in order."""
    words = ["spring", "summer", "autumn", "winter", "rain"]
    pages = [
        f"Operations Manual   Rev. C\nText about {word}.\n\nConfidential\nPage {i + 3} of 12"
        for i, word in enumerate(words)
    ]
    assert _pages(*pages) == "\n\n".join(f"Text about {word}." for word in words) + "\n"


def test_japanese_page_numbers_and_headers_are_removed() -> None:
    """社外秘 and 第3頁 go."""
    pages = [f"社外秘\n設計の{word}を示す。\n第{i + 1}頁" for i, word in enumerate("甲乙丙丁")]
    assert _pages(*pages) == "\n\n".join(f"設計の{word}を示す。" for word in "甲乙丙丁") + "\n"


@pytest.mark.parametrize("number", ["- {} -", "{}", "Page {}", "{} / 2", "p. {}", "{}ページ", "－{}－"])
def test_two_pages_are_enough_for_page_numbers(number: str) -> None:
    """A bare page number is known from two pages on."""
    assert _pages(f"One.\n{number.format(1)}", f"Two.\n{number.format(2)}") == "One.\n\nTwo.\n"


def test_totals_and_chapters_at_the_edge_of_pages_stay() -> None:
    """A number that does not go with the page, or counts chapters, is text."""
    pages = [f"第{i + 1}章 概要{i * i}\n明細の{i}行。\n合計 {i * 37 + 5} 円" for i in range(5)]
    text = _pages(*pages)
    assert all(f"第{i + 1}章" in text and f"合計 {i * 37 + 5} 円" in text for i in range(5))


def test_a_sentence_over_a_page_break_stays_whole() -> None:
    """A page that ends within a sentence is followed by a line feed only, and the wrapped lines are joined."""
    first = "The pump has to be stopped before the valve in the second circuit is opened,"
    assert _pages(f"{first}\n1", "since pressure may have built up in it.\n2") == (
        f"{first} since pressure may have built up in it.\n"
    )


WRAPPED = """\
The service reads its configuration when it starts, and every later change
needs a restart before it has an effect. Values that are not set take their
default, which is listed in the appendix.
"""


def test_wrapped_english_lines_are_joined() -> None:
    """Lines of a paragraph become one line with blanks."""
    assert clean(WRAPPED, PLAIN) == WRAPPED.strip().replace("\n", " ") + "\n"


def test_wrapped_japanese_lines_are_joined_without_blanks() -> None:
    """Between Japanese characters nothing is put; the last line of the paragraph may be short."""
    lines = [
        "本書は、サーバの設定方法を説明するものである。設定ファイルは起動時に読み込まれ、変",
        "更した場合には再起動が必要となる。なお、詳細は Apache の文書を参照し、管理者に問い合",
        "わせること。",
    ]
    assert clean("\n".join(lines), PLAIN) == "".join(lines) + "\n"


def test_a_hyphen_at_a_line_end_goes_where_the_solid_word_is_known() -> None:
    """A word that stands whole elsewhere becomes whole; another one keeps its hyphen."""
    text = (
        "Calls to foreign numbers need the international prefix, and the inter-\n"
        "national operator takes over where it is missing; this is what the multi-\n"
        "layer protocol of the exchange prescribes for all of them.\n"
    )
    cleaned = clean(text, PLAIN)
    assert cleaned.count("international") == 2
    assert "multi-layer" in cleaned


KEPT = """\
- first item of the list, as long as a line of text can be here
- second item of the list, as long as a line of text
=====
1. Open the cover and take out the old filter of the machine
2. Put in the new filter and close the cover of the machine
=====
2024-01-05 10:00:01 INFO server started and listening on port
2024-01-05 10:00:02 INFO first request was served in twelve
=====
host = database-server-01.internal.company-network.local
user = application-account-with-long-name-for-testing
=====
name,department,telephone extension,office,building
Lee,sales department,four four seven one,12,North building
=====
    for item in collection_of_many_items_in_the_warehouse:
    process(item, with_some_options, and_another_one_too)
=====
```
the content of a fenced block is kept just as it is, even if
it looks like a paragraph that was wrapped at some column
```
=====
| column one of the table | column two of the table | three
| another row of the table | with its second cell | and third
=====
Head Office, Kaede Electric Works Company Limited
North Tower, Harbour District, Second Avenue East
Yokohama, Kanagawa Prefecture, Japan and Asia Area
=====
Item                 Count      Price
Screw M4 x 10           12       0.40
Washer 4 mm zinc        30       0.05
=====
Introduction
This chapter tells what the product does and for whom it was made by us.
=====
　段落の初めは一字下げる。ここでは二つの短い段落が続くだけで終わる。
　次の段落も一字下げて始まる。ここでも文は同じ長さの行で終わっている。
=====
・電源を切り、プラグを抜いてからカバーを外してください。
・フィルターを水で洗い、よく乾かしてから取り付けてください。
=====
> quoted text of a mail that was wrapped by the program of
> the sender stays as it is, with its marks at the start
"""


@pytest.mark.parametrize("text", KEPT.split("=====\n"))
def test_what_is_not_a_paragraph_stays(text: str) -> None:
    """Lists, logs, settings, tables, code, addresses, headings, indented paragraphs and quotes keep their lines."""
    assert clean(text, PLAIN) == text


def test_a_wrapped_list_item_becomes_one_line() -> None:
    """The continuation belongs to its item, and the items stay apart."""
    text = (
        "- Switch the machine off, wait until the lamp has gone out, and then\n"
        "  take the cover off.\n"
        "- Clean the filter.\n"
    )
    assert clean(text, PLAIN).split("\n\n") == [
        "- Switch the machine off, wait until the lamp has gone out, and then take the cover off.",
        "- Clean the filter.\n",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("これは KeepAlive の説明", "ja"),
        ("KeepAlive keeps 接続 open for a while", "en"),
        ("12 34", "en"),
        ("", "en"),
        ("ﾃ", "en"),
        ("々", "ja"),
        ("Größe über alles", "en"),
    ],
)
def test_language(text: str, expected: str) -> None:
    """Japanese letters decide by their share among all letters; digits alone are English."""
    assert language_of(text) == expected


DISCLAIMER = "This message is confidential and meant for its receiver only."


def test_boilerplate_lines_are_found_and_dropped() -> None:
    """A line of every document is boilerplate; a line that stands often in one document is not."""
    counts = LineCounts()
    texts = [
        f"Report number {i} on the plant.\n\n{'Repeated within one report. ' if i else DISCLAIMER}\n\n{DISCLAIMER}\n"
        for i in range(10)
    ]
    texts[3] += "A line of its own that comes back.\n" * 20
    for text in texts:
        counts.add(text)
    hashes = counts.boilerplate(0.5)
    assert drop_lines(texts[0], hashes) == "Report number 0 on the plant.\n"
    assert "A line of its own that comes back." in drop_lines(texts[3], hashes)


def test_few_documents_short_lines_and_headings_have_no_boilerplate() -> None:
    """Four copies of a line, brackets, fences and headings stay."""
    counts = LineCounts()
    for _ in range(4):
        counts.add(DISCLAIMER)
    assert counts.boilerplate() == set()
    for _ in range(20):
        counts.add("```\n}\n# Heading of a chapter in all files\n")
    assert counts.boilerplate(0.3) == set()


def test_line_counts_are_bounded_and_keep_the_frequent_lines() -> None:
    """With room for 100 lines a line of every third document is found among 3,000 different ones."""
    counts = LineCounts(max_lines=100)
    for i in range(300):
        lines = [f"unique line number {i}-{j} of this document" for j in range(10)]
        counts.add("\n".join([*lines, DISCLAIMER] if i % 3 == 0 else lines))
    hashes = counts.boilerplate(0.3)
    assert drop_lines(DISCLAIMER, hashes) == "\n"
    assert len(hashes) <= 100
