"""Build the sample corpus, glossary and questions from an unpacked Apache HTTP Server manual.

    python -m flows.sample.build MANUAL_DIR [--out flows/sample]

``MANUAL_DIR`` is the folder that holds ``en/`` and ``ja/`` (Debian: package ``apache2-doc``, folder
``usr/share/doc/apache2-doc/manual``). The same manual always gives the same bytes.
"""
# ruff: noqa: T201  (a command line tool that reports its counts)

import argparse
import csv
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from flows.sample.build_pages import is_english, is_japanese, page_blocks, read_page
from flows.sample.build_questions import question_lines
from flows.sample.build_tables import SAFETY_DIRECTIVES, Directive, directives_of, glossary_rows

LISTS_OF_LINKS = {"index", "sitemap", "mod_directives", "mod_overrides", "mod_quickreference", "ssl_index"}
ENGLISH_FIRST = ("glossary", "mod_core", "mod_ssl", "mod_authz_core", "mod_reqtimeout")
ENGLISH_BUDGET_BYTES = 500_000
COLUMNS = ("term", "language", "reading", "aliases", "weight", "must_not_skip", "note", "kind")


def page_name(path: Path, folder: Path) -> str:
    """Flat name of a page: ``mod/mod_dir.html`` -> ``mod_dir``, ``howto/cgi.html`` -> ``howto_cgi``."""
    parts = path.relative_to(folder).with_suffix("").parts
    return parts[-1] if parts[0] == "mod" and parts[-1].startswith("mod_") else "_".join(parts)


def build_texts(manual: Path, language: str) -> tuple[dict[str, str], list[Directive]]:
    """All pages of one language as text, with their directive tables, without pages in another language."""
    folder = manual / language
    texts: dict[str, str] = {}
    directives: list[Directive] = []
    for path in sorted(folder.rglob("*.html")):
        name = page_name(path, folder)
        content = read_page(path)
        tables = directives_of(content, language, name)
        text = "\n".join(page_blocks(content, language)) + "\n"
        in_language = is_japanese(text, 0.2) if language == "ja" else is_english(text)
        if name in LISTS_OF_LINKS or not in_language:
            continue
        texts[name] = text
        directives.extend(tables)
    return texts, directives


def english_subset(texts: dict[str, str], japanese: dict[str, str]) -> dict[str, str]:
    """Pages asked for first, then those with a Japanese counterpart, smallest first, within the budget."""
    paired = sorted(set(texts) & set(japanese), key=lambda name: (len(texts[name]), name))
    chosen: dict[str, str] = {}
    room = ENGLISH_BUDGET_BYTES
    for name in [*ENGLISH_FIRST, *paired]:
        size = len(texts[name].encode())
        if name not in chosen and size <= room:
            chosen[name] = texts[name]
            room -= size
    return chosen


def directive_rows(directives: Sequence[Directive], text: str) -> list[dict[str, str]]:
    """Glossary rows of the directives; a name that is mostly an ordinary word in the text keeps only its <form>.

    A single capitalised word such as ``If`` or ``Allow`` begins many sentences. It counts as ordinary when more than
    half of its occurrences stand in running English: before a small letter, and not before the word "directive".
    """
    rows: dict[str, dict[str, str]] = {}
    for d in sorted(directives, key=lambda d: (d.bare_name.lower(), d.bare_name, d.language)):
        term, alias = (d.bare_name, d.name if d.name != d.bare_name else "")
        if re.fullmatch(r"[A-Z][a-z]+", term) and _is_ordinary(term, text):
            if not alias:
                continue
            term, alias = alias, ""
        is_safety = d.bare_name in SAFETY_DIRECTIVES
        rows.setdefault(
            term,
            {
                "term": term,
                "language": "any",
                "reading": "",
                "aliases": alias,
                "weight": "2.0" if is_safety else "1.0",
                "must_not_skip": "true" if is_safety else "false",
                "note": d.module,
                "kind": "directive",
            },
        )
    return list(rows.values())


def _is_ordinary(word: str, text: str) -> bool:
    n_all = len(re.findall(rf"(?<![\w<]){word}(?![\w>])", text))
    n_plain = len(re.findall(rf"(?:^|[.:] ){word} (?!directive)[a-z]|(?:[a-z,] ){word} (?!directive)[a-z]", text, re.M))
    return n_all > 0 and n_plain * 2 > n_all


def write_texts(texts: dict[str, str], folder: Path) -> None:
    """Replace the folder by one UTF-8 file per page."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")


def build(manual: Path, out: Path) -> None:
    """Write ``corpus/``, ``glossary.csv`` and ``questions.jsonl`` under ``out`` and print the counts."""
    japanese, japanese_directives = build_texts(manual, "ja")
    all_english, all_directives = build_texts(manual, "en")
    english = english_subset(all_english, japanese)
    english_directives = [d for d in all_directives if d.document in english]
    write_texts(japanese, out / "corpus" / "ja")
    write_texts(english, out / "corpus" / "en")

    pages = {language: read_page(manual / language / "glossary.html") for language in ("ja", "en")}
    used = [*japanese_directives, *english_directives]
    rows = glossary_rows(pages) + directive_rows(used, "".join(english.values()))
    with (out / "glossary.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    english_defaults = {d.name: d.default for d in all_directives}
    lines = question_lines(used, english_defaults)
    (out / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    for language, texts in (("ja", japanese), ("en", english)):
        whole = "".join(texts.values())
        print(f"{language}: {len(texts)} documents, {len(whole)} characters, {len(whole.encode())} bytes")
    print(f"glossary: {len(rows)} rows; questions: {len(lines)} items")


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manual", type=Path, help="folder with en/ and ja/")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    arguments = parser.parse_args()
    if not (arguments.manual / "ja").is_dir():
        parser.error(f"expected a folder with en/ and ja/, got {arguments.manual}")
    build(arguments.manual, arguments.out)


if __name__ == "__main__":
    main()
