"""General text to mix into training and to contrast the company's terms with.

Sources:
    package:libreoffice-help    help of LibreOffice 7.4 from the Debian packages `libreoffice-help-ja` (3.7 MB) and
                                `libreoffice-help-en-us` (1.8 MB), MPL-2.0, The Document Foundation: 0.84 million
                                characters of Japanese on 1,224 pages, without sentences that nobody has translated,
                                and 3.96 million of English on 2,332. Read where it is installed, never copied.
    a folder                    UTF-8 text files (.txt, .md) that the company may use.

The registries hold no corpus of general Japanese prose under a permissive licence: what they carry is manuals,
word lists, and scripture in the written language of 1887. Office help is ordinary present-day Japanese and English
about documents, tables, formulas and letters, but it is still software help, and it is not permissive but weak
copyleft. A company with newspaper, encyclopaedia or web text it may use should name a folder with it.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from flows.corpus.clean import language_of
from flows.corpus.types import Text
from flows.errors import PocError

__all__ = ["OFFICE_HELP", "background_texts", "check_background"]

OFFICE_HELP = "package:libreoffice-help"
OFFICE_HELP_FOLDER = Path("/usr/share/libreoffice/help")
_OFFICE_HELP_LANGUAGES = {"ja": "ja", "en": "en-US"}
HALVES: Mapping[str, float] = MappingProxyType({"ja": 0.5, "en": 0.5})
MIN_CHARACTERS = 200
"""Shorter texts, such as pages that only hold links, are passed over."""


def check_background(source: str | Path) -> None:
    """Refuse a source that is not there.

    Raises:
        PocError: The package is not installed or the folder does not exist.
    """
    if str(source) == OFFICE_HELP:
        if not any((OFFICE_HELP_FOLDER / name / "text").is_dir() for name in _OFFICE_HELP_LANGUAGES.values()):
            raise PocError(
                "the packaged background text is not installed",
                where=f"corpus.background: {OFFICE_HELP}",
                todo="apt-get install libreoffice-help-ja libreoffice-help-en-us, or name a folder with general text",
            )
    elif not Path(source).is_dir():
        raise PocError(
            f"expected a folder with general text or {OFFICE_HELP}, got nothing there",
            where=f"corpus.background: {source}",
            todo="give a folder with .txt files, or set it to null for no background text",
        )


def background_texts(
    n_characters: int, seed: int, source: str | Path = OFFICE_HELP, shares: Mapping[str, float] = HALVES
) -> Iterator[Text]:
    """Give general text, up to ``n_characters``: whole documents in an order fixed by ``seed``.

    The last document of a language is cut at a line, so that no more than asked for is given; a smaller request is a
    beginning of a larger one. Fewer characters come when the source holds no more: the caller counts them.

    Args:
        n_characters: How much. [characters]
        seed: Seed of the order.
        source: ``package:libreoffice-help`` or a folder.
        shares: Share of each language (``ja``, ``en``), such as those of the company's own text.

    Raises:
        PocError: The source is not there, or a file of the folder is not UTF-8.
    """
    check_background(source)
    for language, share in shares.items():
        yield from _of_language(source, language, round(share * n_characters), seed)


def _of_language(source: str | Path, language: str, n_characters: int, seed: int) -> Iterator[Text]:
    is_help = str(source) == OFFICE_HELP
    root = OFFICE_HELP_FOLDER / _OFFICE_HELP_LANGUAGES[language] / "text" if is_help else Path(source)
    suffixes = (".html",) if is_help else (".txt", ".md")
    read = _page_reader(language) if is_help else _plain_text
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    random.Random(f"{seed} {language}").shuffle(paths)
    left = n_characters
    for path in paths:
        if left <= 0:
            return
        text = read(path)
        if len(text) < MIN_CHARACTERS or language_of(text) != language:
            continue
        kept = text if len(text) <= left else text[: text.rfind("\n", 0, left) + 1]
        if kept:
            yield Text(f"{language}/{path.relative_to(root).as_posix()}", kept, "text/plain", "utf-8")
        left -= len(text)


def _plain_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip("\n") + "\n"
    except UnicodeDecodeError as error:
        raise PocError(
            f"a background text is not UTF-8 at byte {error.start}", where=str(path), todo="save it as UTF-8"
        ) from error


def _page_reader(language: str) -> Callable[[Path], str]:
    """Return what reads a page of the office help: its headings and paragraphs in this language."""
    from selectolax.lexbor import LexborHTMLParser

    def page(path: Path) -> str:
        tree = LexborHTMLParser(path.read_text(encoding="utf-8"))
        nodes = tree.css("#DisplayArea h1, #DisplayArea h2, #DisplayArea h3, #DisplayArea p")
        lines = (" ".join(node.text().split()) for node in nodes)
        # pages of a translation keep the sentences that nobody has translated yet
        return "\n".join(dict.fromkeys(line for line in lines if line and language_of(line) == language)) + "\n"

    return page
