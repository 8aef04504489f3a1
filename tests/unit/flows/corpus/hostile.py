"""Makes a folder as companies have them, and as attackers would like them: every type, every trap, and what is right.

`make_tree(folder)` returns, for every source that a reading of the folder must account for, the media type of its
text or the reason why there is none.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path

import msoffcrypto.format.ooxml

from flows.corpus.formats import MEDIA_TYPES
from tests.unit.flows.corpus import documents as make

MIB = 2**20
BIG_LINE = 200 * MIB
PASSWORD = "sesame"

LAUGHS = '<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


def make_tree(folder: Path, big_line_bytes: int = BIG_LINE) -> dict[str, str]:
    """Fill a folder; return each source with its media type or its reason."""
    folder.mkdir(parents=True, exist_ok=True)
    return {**ordinary(folder / "ordinary"), **hostile(folder / "hostile", big_line_bytes)}


def _write(folder: Path, name: str, raw: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def ordinary(folder: Path) -> dict[str, str]:
    """One file of every type and encoding."""
    files: dict[str, bytes] = {}
    encodings = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp932", "shift_jis", "euc_jp", "iso2022_jp")
    for seed, encoding in enumerate(encodings):
        files[f"encodings/{encoding}.txt"] = make.japanese(seed).encode(encoding)
    files["encodings/cp1252.txt"] = ("It’s the café’s – new – menu. " * 20).encode("cp1252")
    files["note.md"] = b"# Note\n\n" + make.english(20).encode()
    page = f"<title>社内規程</title><nav>menu</nav><script>x=1</script><p>{make.japanese(21)}</p>"
    files["page.html"] = f'<!DOCTYPE html><meta charset="Shift_JIS">{page}'.encode("cp932")
    rows = [["部品番号", "数量", "備考"], *([f"P-{n:04d}", str(n), f"棚{n % 7}"] for n in range(60))]
    lines = [",".join(row) for row in rows]
    files["parts.csv"] = "\r\n".join(lines).encode("cp932")
    files["parts.tsv"] = "\n".join(line.replace(",", "\t") for line in lines).encode()
    files["tickets.json"] = b'[{"title": "Outage", "body": "' + make.english(22).replace("\n", " ").encode() + b'"}]'
    files["tickets.jsonl"] = b"\n".join(b'{"n": 1, "text": "%s"}' % s.encode() for s in make.english(23).splitlines())
    files["report.docx"] = make.docx_bytes(make.japanese(24), rows[:4])
    files["plan.xlsx"] = make.xlsx_bytes({"計画": rows, "Sheet2": [["note", 1.0, None, True]]})
    files["slides.pptx"] = make.pptx_bytes("導入計画", make.japanese(25), "Speaker notes", rows[:3])
    files["paper.pdf"] = make.pdf_bytes([make.english(26), make.english(27)])
    files["契約書.pdf"] = make.japanese_pdf_bytes([make.japanese(28), make.japanese(29)])
    files["mail.eml"] = make.mail_bytes(
        "議事録の件", make.japanese(30), {"添付.txt": make.japanese(31).encode("cp932")}
    )
    files["box.mbox"] = b"".join(
        b"From a@example.com Mon Jan  1 00:00:00 2024\n" + make.mail_bytes(f"No {n}", make.english(32 + n)) + b"\n"
        for n in range(3)
    )
    inner = make.zip_bytes({"deep.txt": make.english(40).encode()})
    members = {"a/b.txt": make.english(41).encode(), "資料.docx": make.docx_bytes(make.japanese(42)), "in.zip": inner}
    files["pack.zip"] = make.zip_bytes(members)
    for name, raw in files.items():
        _write(folder, name, raw)
    expected = {name: MEDIA_TYPES[Path(name).suffix] for name in files if not name.endswith((".zip", ".mbox"))}
    expected |= {f"box.mbox!/{n}": "message/rfc822" for n in range(3)}
    expected |= {
        "mail.eml!/添付.txt": "text/plain",
        "pack.zip!/a/b.txt": "text/plain",
        "pack.zip!/資料.docx": MEDIA_TYPES[".docx"],
        "pack.zip!/in.zip!/deep.txt": "text/plain",
    }
    return {f"{folder.name}/{name}": kind for name, kind in expected.items()}


def hostile(folder: Path, big_line_bytes: int = BIG_LINE) -> dict[str, str]:
    """Every trap that the room promises to survive."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = {**_broken(folder), **_archives(folder), **_file_system(folder)}
    with (folder / "line.txt").open("wb") as file:
        for _ in range(0, big_line_bytes, MIB):
            file.write(b"word " * (MIB // 5))
    expected["line.txt"] = "line_too_long"
    return {f"{folder.name}/{name}": reason for name, reason in expected.items()}


def _broken(folder: Path) -> dict[str, str]:
    pdf, word, book = make.pdf_bytes(["page"] * 5), make.docx_bytes("text"), make.xlsx_bytes({"s": [["v"]]})
    files = {
        "zero.txt": (b"", "empty"),
        "zero.docx": (b"", "empty"),
        "blank.md": (b" \n\t\n", "empty"),
        "cut.pdf": (pdf[: len(pdf) // 2], "damaged"),
        "cut.docx": (word[: len(word) // 2], "damaged"),
        "cut.xlsx": (book[:100], "damaged"),
        "junk.pptx": (b"junk" * 100, "damaged"),
        "bad.json": (b'{"a": "b"', "damaged"),
        "deep.json": (b"[" * 200_000, "damaged"),
        "bad.jsonl": (b'{"a": "b"}\n{"a": \n', "damaged"),
        "locked.pdf": (make.locked_pdf_bytes(PASSWORD), "encrypted"),
        "locked.xlsx": (locked(book), "encrypted"),
        "scan.pdf": (make.japanese_pdf_bytes([""]), "no_text_layer"),
        "binary.txt": (bytes(range(256)) * 40, "not_text"),
        "zip.txt": (make.zip_bytes({"a": b"b"}), "not_text"),
        "mixed.txt": (make.japanese(1).encode() + make.japanese(2).encode("cp932"), "unknown_encoding"),
        "laughs.html": (LAUGHS.encode() + b"<html><p>&b;</p></html>", "xml_entities"),
        "laughs.docx": (with_entities(word, "word/document.xml"), "xml_entities"),
        "laughs.xlsx": (with_entities(book, "xl/worksheets/sheet1.xml"), "xml_entities"),
        "laughs.xml": (LAUGHS.encode() + b"<lolz>&b;</lolz>", "unsupported_type"),
        "bomb.docx": (bomb(word), "archive_bomb"),
        "movie.mp4": (b"\0" * 100, "unsupported_type"),
        "~$report.docx": (b"\x05owner" + b"\0" * 156, "lock_file"),
    }
    for name, (raw, _) in files.items():
        _write(folder, name, raw)
    return {name: reason for name, (_, reason) in files.items()}


def locked(raw: bytes) -> bytes:
    """An Office file with a password."""
    target = io.BytesIO()
    msoffcrypto.format.ooxml.OOXMLFile(io.BytesIO(raw)).encrypt(PASSWORD, target)
    return target.getvalue()


def with_entities(raw: bytes, part: str) -> bytes:
    """An Office file one part of which defines entities."""
    return changed(raw, part, lambda xml: LAUGHS.encode() + xml[xml.find(b"?>") + 2 if b"?>" in xml else 0 :].lstrip())


def bomb(raw: bytes) -> bytes:
    """An Office file one part of which unpacks to 64 MiB."""
    return changed(raw, "word/document.xml", lambda xml: xml + b" " * (64 * MIB))


def changed(raw: bytes, part: str, change) -> bytes:
    """An Office file with one part changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, change(data) if info.filename == part else data)
    return buffer.getvalue()


def _archives(folder: Path) -> dict[str, str]:
    good = make.english(50).encode()
    _write(folder, "bomb.zip", make.zip_bytes({"zeros.txt": b"0" * (64 * MIB)}))
    _write(folder, "empty.zip", make.zip_bytes({}))
    _write(folder, "cut.zip", make.zip_bytes({"a.txt": good, "b.txt": good})[:200])
    nested = make.zip_bytes({"a.txt": good})
    for _ in range(20):
        nested = make.zip_bytes({"n.zip": nested})
    _write(folder, "nested.zip", nested)
    names = ("../up.txt", "a/../../up.txt", "/etc/absolute.txt", "C:\\windows.txt", "..\\up2.txt", "fine.txt")
    _write(folder, "paths.zip", make.zip_bytes(dict.fromkeys(names, good)))
    with zipfile.ZipFile(folder / "links.zip", "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return {
        "bomb.zip": "archive_bomb",
        "empty.zip": "empty",
        "cut.zip": "damaged",
        "nested.zip!/n.zip!/n.zip": "nested_too_deep",
        **{f"paths.zip!/{name}".replace("\\", "/"): "path_traversal" for name in names[:-1]},
        "paths.zip!/fine.txt": "text/plain",
        "links.zip!/link.txt": "symbolic_link",
    }


def _file_system(folder: Path) -> dict[str, str]:
    (folder / "loop").mkdir()
    (folder / "loop" / "again").symlink_to(folder / "loop", target_is_directory=True)
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "outside.txt").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe.txt")
    strange = "new\nline 😀.txt"
    _write(folder, strange, make.english(51).encode())
    expected = {
        "loop/again": "symbolic_link",
        "self.txt": "symbolic_link",
        "outside.txt": "symbolic_link",
        "pipe.txt": "special_file",
        strange: "text/plain",
    }
    if os.geteuid() != 0:
        # the superuser reads it all the same
        _write(folder, "forbidden.txt", b"secret")
        (folder / "forbidden.txt").chmod(0)
        expected["forbidden.txt"] = "unreadable"
    return expected
