"""Readers: what a file says, and why one says nothing."""

from __future__ import annotations

import io
from pathlib import Path

import docx
import openpyxl
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from flows.corpus import readers
from flows.corpus.formats import MEDIA_TYPES
from flows.corpus.limits import Limits
from flows.corpus.readers import read, read_part
from flows.corpus.types import FileRef, Rejected, Text
from tests.unit.flows.corpus import documents as make
from tests.unit.flows.corpus.hostile import locked

LIMITS = Limits()


def text_of(raw: bytes, name: str) -> str:
    (entry,) = read_part(raw, name, LIMITS)
    assert isinstance(entry, Text), entry
    assert entry.media_type == MEDIA_TYPES[Path(name).suffix]
    return entry.text


def reason_of(raw: bytes, name: str, limits: Limits = LIMITS) -> tuple[str, str]:
    (entry,) = read_part(raw, name, limits)
    assert isinstance(entry, Rejected)
    return entry.reason, entry.detail


def test_html_shows_what_a_person_sees() -> None:
    """Words stay whole, blocks get lines, menus, scripts and hidden parts go, the title comes first."""
    page = """<html><head><title>Rules &amp; terms</title><style>p{}</style></head><body><nav>Home</nav>
    <h1>見出し<br>二行目</h1><div>Good<b>bye</b>
    world<script>x()</script></div><p>One<p>Two<ul><li>a<li>b <a href=x>link</a></ul>
    <p hidden>secret</p><div style="display:none">gone</div><pre>if x:
    y<br>z</pre><footer>(c)</footer></body></html>"""

    assert text_of(page.encode(), "a.html") == (
        "Rules & terms\n\n見出し\n二行目\n\nGoodbye world\n\nOne\n\nTwo\n\na\nb link\n\nif x:\n    y\nz"
    )


def test_html_tables_become_rows() -> None:
    """A table of data is rows with bars; a table that lays out the page is not."""
    inner = "<table><caption>Prices</caption><tr><th>Part<th>Price<tr><td><p>P-1</p><p>red</p><td>100円</table>"
    page = f"<table><tr><td>left</td><td><p>Intro</p>{inner}</td></tr></table>"

    assert text_of(page.encode(), "a.htm") == "left\n\nIntro\n\nPrices\nPart | Price\nP-1 red | 100円"


@pytest.mark.parametrize("declared", ["Shift_JIS", "utf-8"])
def test_html_encoding_by_look_and_declaration(declared: str) -> None:
    """A page in CP932 is read whether its declaration is right or wrong."""
    page = f'<meta http-equiv="Content-Type" content="text/html; charset={declared}"><p>{make.japanese(1)}'
    (entry,) = read_part(page.encode("cp932"), "a.html", LIMITS)

    assert isinstance(entry, Text)
    assert entry.encoding == "cp932"
    assert entry.text == " ".join(make.japanese(1).split())


def test_csv_and_tsv_become_rows() -> None:
    """Quoted cells are one cell on one line; semicolons work; empty cells keep their place."""
    assert text_of(b'a,b,c\r\n"x, y","two\nlines",\r\n,,z\r\n,,\r\n', "a.csv") == "a | b | c\nx, y | two lines\n |  | z"
    assert text_of("品名;数\nねじ;1,5\n".encode("cp932"), "a.csv") == "品名 | 数\nねじ | 1,5"
    assert text_of(b"a\tb\n1\t2\n", "a.tsv") == "a | b\n1 | 2"


def test_csv_with_unpaired_quotes_keeps_its_lines() -> None:
    """A file that is no proper CSV is still text."""
    raw = b'size,note\n3,5" disk\n4,"open\n'

    assert text_of(raw, "a.csv") == raw.decode()


def test_json_gives_its_strings() -> None:
    """String values in their order, a duplicate key included; numbers and keys are left out."""
    assert text_of(b'[{"a": "one", "n": 1, "a": ["two", {"b": "three"}]}, {"c": "four"}]', "a.json") == (
        "one\ntwo\nthree\n\nfour"
    )
    assert text_of(b'{"t": "one"}\n\n{"t": "two\\nlines"}\n', "a.jsonl") == "one\n\ntwo\nlines"
    assert text_of(b'{"t": "x\\ud800y", "n": ' + b"9" * 10_000 + b"}", "a.json") == "x\ufffdy"


def test_json_faults_say_the_place() -> None:
    """A broken line is named by its number."""
    assert reason_of(b'{"a": "b"}\n{"a": \n', "a.jsonl")[0] == "damaged"
    assert "line 2" in reason_of(b'{"a": "b"}\n{"a": \n', "a.jsonl")[1]
    assert reason_of(b"[" * 200_000, "a.json") == ("damaged", "not JSON: nested too deep")


def test_docx_paragraphs_and_tables_in_order() -> None:
    """Tables are rows; headers and footers of the page are left out."""
    raw = make.docx_bytes("はじめに\nText", [["Part", "Price"], ["P-1", "100円"]])

    assert text_of(raw, "a.docx") == "はじめに\n\nText\n\nPart | Price\nP-1 | 100円"


def test_docx_text_that_paragraphs_hide() -> None:
    """Inserted changes, content controls, text boxes and kanji with readings are read; deleted text is not."""
    document = docx.Document()
    run = "<w:r><w:t>{}</w:t></w:r>".format
    box = f"<w:txbxContent><w:p>{run('box')}</w:p></w:txbxContent>"
    ruby = f"<w:r><w:ruby><w:rt>{run('かんじ')}</w:rt><w:rubyBase>{run('漢字')}</w:rubyBase></w:ruby></w:r>"
    body = (
        f"<w:p {nsdecls('w')}>{run('a')}<w:ins>{run('b')}</w:ins><w:del><w:r><w:delText>c</w:delText></w:r></w:del>"
        f"<w:sdt><w:sdtContent>{run('d')}</w:sdtContent></w:sdt>{ruby}<w:r><w:pict>{box}</w:pict></w:r></w:p>"
    )
    document.element.body.insert(0, parse_xml(body))
    buffer = io.BytesIO()
    document.save(buffer)

    assert text_of(buffer.getvalue(), "a.docx") == "abd漢字\n\nbox"


def test_xlsx_rows_per_sheet() -> None:
    """Each sheet under its name; whole numbers without a point, dates without an hour, formulas by their value."""
    book = openpyxl.load_workbook(io.BytesIO(make.xlsx_bytes({"計画": [["品名", "数"], ["ねじ", 3.0], [None, 2.5]]})))
    book["計画"]["A9"] = "=1+1"
    book["計画"]["A10"] = "#N/A"
    book.create_sheet("空")
    buffer = io.BytesIO()
    book.save(buffer)

    assert text_of(buffer.getvalue(), "a.xlsx") == "計画\n品名 | 数\nねじ | 3\n | 2.5"


def test_pptx_slides_tables_and_notes() -> None:
    """Title, body, table rows, then the notes of the speaker."""
    raw = make.pptx_bytes("導入計画", "first\nsecond", "say this", [["a", "b"], ["1", "2"]])

    assert text_of(raw, "a.pptx") == "導入計画\nfirst\nsecond\na | b\n1 | 2\nsay this"


def test_pdf_pages_are_separated_by_form_feeds() -> None:
    """So that what repeats on every page can be seen; Latin fonts within the file, Japanese by its code."""
    assert text_of(make.pdf_bytes(["First page", "Second page"]), "a.pdf") == "First page\fSecond page"
    assert text_of(make.japanese_pdf_bytes(["一頁目", "二頁目"]), "a.pdf") == "一頁目\f二頁目"


def test_pdf_that_only_forbids_printing_is_read() -> None:
    """A file that opens without a password is not protected from its reader."""
    assert text_of(make.locked_pdf_bytes(""), "a.pdf") == "Secret figures of the quarter."


def test_mail_subject_body_and_attachments() -> None:
    """The plain body counts, attachments are further texts, two of one name are told apart."""
    attachments = {"a.txt": "添付".encode("cp932"), "b.docx": make.docx_bytes("Word"), "logo.png": b"\x89PNG"}
    found = read_part(make.mail_bytes("件名", "本文です", attachments, html="<p>no</p>"), "m.eml", LIMITS)

    assert [(entry.source, entry.text if isinstance(entry, Text) else entry.reason) for entry in found] == [
        ("m.eml", "件名\n\n本文です\n"),
        ("m.eml!/a.txt", "添付"),
        ("m.eml!/b.docx", "Word"),
        ("m.eml!/logo.png", "unsupported_type"),
    ]


def test_mail_as_old_programs_write_it() -> None:
    """ISO-2022-JP without transfer coding, and HTML alone."""
    head = b"Subject: =?ISO-2022-JP?B?GyRCN29MPhsoQg==?=\r\nContent-Type: text/%s; charset=%s\r\n\r\n"
    plain = head % (b"plain", b"ISO-2022-JP") + "本文です。".encode("iso2022_jp")
    html = head % (b"html", b"Shift_JIS") + "<p>本文<b>です</b>。".encode("cp932")

    assert text_of(plain, "a.eml") == "件名\n\n本文です。"
    assert text_of(html, "a.eml") == "件名\n\n本文です。"


def test_forwarded_mails_down_to_a_depth() -> None:
    """A mail in a mail is a text of its own; endless forwarding ends at the limit."""
    raw = make.mail_bytes("inner", "inner body")
    for _ in range(5):
        wrapper = b"Subject: fwd\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B%d\n\n" % len(raw)
        mark = b"--B%d" % len(raw)
        raw = wrapper + mark + b"\n\nsee below\n" + mark + b"\nContent-Type: message/rfc822\n\n" + raw + mark + b"--\n"
    found = read_part(raw, "f.eml", LIMITS)

    assert [entry.source for entry in found] == ["f.eml" + "!/0.eml" * depth for depth in range(4)]
    assert [type(entry) for entry in found] == [Text, Text, Text, Rejected]


def test_mail_box_gives_a_text_per_message(tmp_path: Path) -> None:
    """Messages are numbered from 0; a file without a From line is no mail box."""
    path = tmp_path / "box.mbox"
    start = b"From a@example.com Mon Jan  1 00:00:00 2024\n"
    path.write_bytes(b"".join(start + make.mail_bytes(f"No {n}", "body") + b"\n" for n in range(2)))
    ref = FileRef("box.mbox", path, 1)

    assert [entry.source for entry in read(ref, LIMITS)] == ["box.mbox!/0", "box.mbox!/1"]

    path.write_bytes(b"no mail")
    (entry,) = read(ref, LIMITS)
    assert entry == Rejected("box.mbox", "damaged", "no message starts with a From line")


def test_first_bytes_decide_over_the_suffix() -> None:
    """A Word file named .txt is read as one; a picture named .docx is damaged; text named .pdf too."""
    (entry,) = read_part(make.docx_bytes("Word"), "a.txt", LIMITS)

    assert isinstance(entry, Text)
    assert (entry.text, entry.media_type) == ("Word", MEDIA_TYPES[".docx"])
    assert reason_of(b"\x89PNG" * 9, "a.docx")[0] == "damaged"
    assert reason_of(b"text", "a.pdf")[0] == "damaged"


@pytest.mark.parametrize("name", ["a.xlsx", "a.txt"])
def test_password_protected_office_file(name: str) -> None:
    """It is recognised by its first bytes, not by its name."""
    assert reason_of(locked(make.xlsx_bytes({"s": [["v"]]})), name) == ("encrypted", "it needs a password")


def test_long_line_is_data() -> None:
    """One line beyond the limit refuses the text; many lines up to it do not."""
    limits = Limits(max_line_characters=100)
    line = b"x" * 100 + b"\n"

    assert reason_of(line * 3 + b"x" * 101, "a.txt", limits)[0] == "line_too_long"
    assert isinstance(read_part(line * 3 + b"x" * 100, "a.txt", limits)[0], Text)


def test_details_never_quote_the_file() -> None:
    """What is said about a broken file holds no word of it."""
    secret = b"TOPSECRET"
    for suffix in MEDIA_TYPES:
        for raw in (secret, b"%PDF-" + secret, b"PK\x03\x04" + secret, b"{" + secret, b"Subject " + secret + b"\xff"):
            for entry in read_part(raw, f"a{suffix}", LIMITS):
                assert isinstance(entry, Text) or secret.decode() not in entry.detail


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal becomes a reason; the superuser of a test machine is never refused, so it is imitated."""

    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(readers, "_bytes", refuse)
    assert read(FileRef("a.txt", tmp_path / "a.txt", 1), LIMITS) == [
        Rejected("a.txt", "unreadable", "Permission denied")
    ]


def test_link_put_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """Between listing and reading a file may be swapped."""
    (tmp_path / "real.txt").write_text("outside")
    (tmp_path / "a.txt").symlink_to(tmp_path / "real.txt")
    (entry,) = read(FileRef("a.txt", tmp_path / "a.txt", 7), LIMITS)

    assert isinstance(entry, Rejected)
    assert entry.reason == "unreadable"


def test_file_that_grew_beyond_the_limit(tmp_path: Path) -> None:
    """The size is looked at again when the file is opened."""
    (tmp_path / "a.txt").write_text("x" * 11)
    (entry,) = read(FileRef("a.txt", tmp_path / "a.txt", 1), Limits(max_file_bytes=10))

    assert entry == Rejected("a.txt", "too_large", "more than 10 bytes")
