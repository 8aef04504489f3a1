"""Makes ordinary documents of every supported type with the libraries that people's programs use."""

from __future__ import annotations

import email.message
import io
import random
import zipfile
from collections.abc import Sequence

import docx
import matplotlib
import openpyxl
import pptx
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from pptx.util import Cm
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, DecodedStreamObject, DictionaryObject, NameObject, NumberObject

_NOUNS = (
    "サーバー",
    "設定ファイル",
    "接続",
    "認証方式",
    "障害報告書",
    "見積書",
    "品質管理",
    "部品番号",
    "契約",
    "担当部署",
)
_VERBS = ("変更します", "確認してください", "保存されます", "更新しました", "許可しません", "送信できます")
_WORDS = ("server", "directive", "request", "module", "contract", "quality", "report", "number", "cache", "session")


def japanese(seed: int, n_sentences: int = 20) -> str:
    """Prose of its own for every seed."""
    pick = random.Random(seed)
    sentences = (
        f"{pick.choice(_NOUNS)}の{pick.choice(_NOUNS)}を第{pick.randrange(1, 99)}版で{pick.choice(_VERBS)}。"
        for _ in range(n_sentences)
    )
    return "\n".join(sentences) + "\n"


def english(seed: int, n_sentences: int = 20) -> str:
    """Prose of its own for every seed."""
    pick = random.Random(seed)
    return "".join(
        f"The {pick.choice(_WORDS)} of the {pick.choice(_WORDS)} is set to {pick.randrange(1000)}.\n"
        for _ in range(n_sentences)
    )


def docx_bytes(text: str, rows: Sequence[Sequence[str]] = ()) -> bytes:
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "HEADER"
    document.sections[0].footer.paragraphs[0].text = "FOOTER"
    for line in text.splitlines():
        document.add_paragraph(line)
    if rows:
        table = document.add_table(len(rows), len(rows[0]))
        for row, cells in zip(table.rows, rows, strict=True):
            for cell, value in zip(row.cells, cells, strict=True):
                cell.text = value
    return _saved(document)


def xlsx_bytes(sheets: dict[str, Sequence[Sequence[object]]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    return _saved(book)


def pptx_bytes(title: str, body: str, notes: str, rows: Sequence[Sequence[str]] = ()) -> bytes:
    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[1])
    slide.shapes.title.text = title
    slide.placeholders[1].text = body
    slide.notes_slide.notes_text_frame.text = notes
    if rows:
        frame = slide.shapes.add_table(len(rows), len(rows[0]), Cm(1), Cm(1), Cm(9), Cm(3))
        for row, cells in zip(frame.table.rows, rows, strict=True):
            for cell, value in zip(row.cells, cells, strict=True):
                cell.text = value
    return _saved(show)


def _saved(document: docx.document.Document | openpyxl.Workbook | pptx.presentation.Presentation) -> bytes:
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def pdf_bytes(pages: Sequence[str]) -> bytes:
    """Latin text with embedded TrueType fonts, as plotting and office programs write it."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}), PdfPages(buffer) as pdf:
        for page in pages:
            figure = Figure(figsize=(8, 11))
            figure.text(0.1, 0.1, page)
            pdf.savefig(figure)
    return buffer.getvalue()


def japanese_pdf_bytes(pages: Sequence[str]) -> bytes:
    """Japanese text in a font that is named, not embedded, coded in CP932, as many Japanese programs write it."""
    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(595, 842)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type0"),
                NameObject("/BaseFont"): NameObject("/HeiseiMin-W3"),
                NameObject("/Encoding"): NameObject("/90ms-RKSJ-H"),
                NameObject("/DescendantFonts"): ArrayObject([_descendant()]),
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        lines = (f"<{line.encode('cp932').hex()}> Tj T*" for line in text.splitlines())
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 10 Tf 14 TL 50 800 Td {' '.join(lines)} ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    return _written(writer)


def _descendant() -> DictionaryObject:
    return DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/CIDFontType0"),
            NameObject("/BaseFont"): NameObject("/HeiseiMin-W3"),
            NameObject("/DW"): NumberObject(1000),
        }
    )


def locked_pdf_bytes(user_password: str) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(pdf_bytes(["Secret figures of the quarter."])))
    writer.encrypt(user_password, owner_password="owner", algorithm="AES-256")
    return _written(writer)


def _written(writer: PdfWriter) -> bytes:
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def mail_bytes(subject: str, body: str, attachments: dict[str, bytes] | None = None, html: str | None = None) -> bytes:
    message = email.message.EmailMessage()
    message["Subject"] = subject
    message["From"] = "a@example.com"
    message["To"] = "b@example.com"
    message.set_content(body)
    if html is not None:
        message.add_alternative(html, subtype="html")
    for name, raw in (attachments or {}).items():
        message.add_attachment(raw, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


def zip_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return buffer.getvalue()
