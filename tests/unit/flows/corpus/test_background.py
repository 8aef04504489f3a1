"""General text from the packaged office help or from a folder."""

from pathlib import Path

import pytest

from flows.corpus import background
from flows.corpus.background import OFFICE_HELP, background_texts, check_background
from flows.errors import PocError

JA = "表の行を選択して、書式のメニューから行の高さを指定します。"
EN = "Select the rows of the table and set their height in the format menu."


def _folder(root: Path, n: int = 12) -> Path:
    for i in range(n):
        (root / "sub").mkdir(parents=True, exist_ok=True)
        (root / "sub" / f"ja{i}.txt").write_text(f"{i}番目の文書です。{JA}\n" * 20, encoding="utf-8")
        (root / f"en{i}.md").write_text(f"Document {i}. {EN}\n" * 20, encoding="utf-8")
    (root / "short.txt").write_text("short\n", encoding="utf-8")
    (root / "picture.png").write_bytes(b"\x89PNG")
    return root


def _help(root: Path) -> Path:
    """Pages as the packages have them: navigation around the text, sentences not yet translated."""
    for language, sentence, other in (("ja", JA, EN), ("en-US", EN, "")):
        folder = root / language / "text" / "swriter"
        folder.mkdir(parents=True)
        for i in range(4):
            body = "".join(f"<p>{k} {sentence}</p>" for k in range(12)) + f"<p>{other}</p>"
            page = f"<div id='DisplayArea'><h1>{i}: {sentence}</h1>{body}</div>"
            html = f"<html><body><nav><p>NAVIGATION</p></nav>{page}</body></html>"
            (folder / f"{i}.html").write_text(html, encoding="utf-8")
    return root


def test_a_folder_gives_both_languages_in_their_shares(tmp_path: Path) -> None:
    """No more than asked for, about the shares asked for, every text in the language of its name."""
    texts = list(background_texts(6000, 1, _folder(tmp_path), {"ja": 0.25, "en": 0.75}))
    size = {name: sum(len(t.text) for t in texts if t.source.startswith(f"{name}/")) for name in ("ja", "en")}

    assert 1500 - 100 <= size["ja"] <= 1500
    assert 4500 - 100 <= size["en"] <= 4500
    assert {text.source.split("/")[0] for text in texts if "表の行" in text.text} == {"ja"}


def test_the_order_is_fixed_by_the_seed_and_smaller_is_a_beginning(tmp_path: Path) -> None:
    """The same seed gives the same text; another one another order; fewer characters a beginning."""
    folder = _folder(tmp_path)
    large = [t.text for t in background_texts(12_000, 1, folder)]
    ja_small = "".join(t.text for t in background_texts(2000, 1, folder, {"ja": 1.0}))
    ja_large = "".join(t.text for t in background_texts(6000, 1, folder, {"ja": 1.0}))

    assert large == [t.text for t in background_texts(12_000, 1, folder)]
    assert large != [t.text for t in background_texts(12_000, 2, folder)]
    assert ja_large.startswith(ja_small)


def test_a_source_that_runs_out_gives_what_it_has(tmp_path: Path) -> None:
    """Asking for more than there is gives every long enough text once."""
    texts = list(background_texts(10**9, 0, _folder(tmp_path, n=3)))

    assert len(texts) == 6
    assert len({text.source for text in texts}) == 6


def test_pages_of_the_office_help_are_read_without_navigation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the page itself is read, and of a translated page only what is translated."""
    monkeypatch.setattr(background, "OFFICE_HELP_FOLDER", _help(tmp_path))
    texts = list(background_texts(10**6, 0, OFFICE_HELP))
    ja = [text.text for text in texts if text.source.startswith("ja/")]

    assert len(texts) == 8
    assert not any("NAVIGATION" in text.text for text in texts)
    assert all(EN not in text and JA in text for text in ja)


@pytest.mark.parametrize("source", [OFFICE_HELP, "no/such/folder"])
def test_a_source_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """The message says what to install or to name."""
    monkeypatch.setattr(background, "OFFICE_HELP_FOLDER", tmp_path / "nothing")
    with pytest.raises(PocError, match=r"corpus\.background") as caught:
        check_background(source)

    assert "folder" in caught.value.todo or "apt-get" in caught.value.todo


def test_a_file_that_is_not_utf8_is_named_without_its_text(tmp_path: Path) -> None:
    """The error gives file and byte, not content."""
    (tmp_path / "old.txt").write_bytes("社外秘の文章です。".encode("cp932") * 40)
    with pytest.raises(PocError, match="not UTF-8 at byte 0") as caught:
        list(background_texts(100, 0, tmp_path))

    assert "社外秘" not in str(caught.value)
