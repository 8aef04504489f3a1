"""Ingest: from a folder to documents, manifest and quarantine; what is kept, masked, held out and read again."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from flows.corpus import tasks
from flows.corpus.types import FileRef
from flows.errors import PocError
from flows.ingest import ingest, load_names
from flows.terms import COLUMNS

WORDS = [f"word{i:03d}" for i in range(400)]


def _prose(seed: int, n_words: int = 120) -> str:
    """Text of random words: two seeds give unlike texts."""
    return " ".join(random.Random(seed).choices(WORDS, k=n_words)) + ".\n"


def _corpus(folder: Path, n_pages: int = 10) -> Path:
    for page in range(n_pages):
        for language, opening in (("ja", "設定ファイルの説明です。" * 30), ("en", "")):
            path = folder / language / f"page{page}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(opening + _prose(1000 * page + len(language + opening)), encoding="utf-8")
    return folder


@pytest.fixture
def glossary(tmp_path: Path) -> Path:
    """A glossary of one term."""
    path = tmp_path / "glossary.csv"
    row = "設定ファイル,ja,,,1.0,true,,glossary"
    path.write_text(f"{','.join(COLUMNS)}\n{row}\n", encoding="utf-8")
    return path


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of the files that are really read, as long as they are read in this process."""
    sources: list[str] = []

    class Spy(tasks.Reader):
        def read(self, ref: FileRef) -> Any:
            sources.append(ref.source)
            return super().read(ref)

    monkeypatch.setattr(tasks, "Reader", Spy)
    return sources


def _ingest(corpus: Path, glossary: Path | None, out: Path, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"validation_share": 0.2, "test_share": 0.2, "seed": 1, "min_characters": 50}
    return ingest(corpus, glossary, out, **{**arguments, **changes})


def _documents(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "documents.jsonl").read_text(encoding="utf-8").splitlines()]


def test_unusable_files_go_to_quarantine_with_a_reason(tmp_path: Path) -> None:
    """Every file of the folder is either a document or in quarantine."""
    folder = _corpus(tmp_path / "corpus", 3)
    (folder / "good.md").write_text(_prose(1), encoding="utf-8")
    (folder / "sjis.txt").write_bytes(("設定ファイルを確認してください。" * 9).encode("shift_jis"))
    (folder / "empty.txt").write_text(" \n", encoding="utf-8")
    (folder / "short.txt").write_text("short", encoding="utf-8")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 30)
    (folder / "film.mp4").write_bytes(b"\0")
    (folder / "link.txt").symlink_to(folder / "good.md")
    manifest = _ingest(folder, None, tmp_path / "out", max_unreadable_share=0.5)
    pages = {f"{language}/page{i}.txt" for language in ("ja", "en") for i in range(3)}

    assert {row["source"] for row in manifest["files"]} == {"good.md", "sjis.txt"} | pages
    assert {entry["source"]: entry["reason"] for entry in manifest["quarantine"]} == {
        "empty.txt": "empty",
        "short.txt": "too_short",
        "binary.txt": "not_text",
        "film.mp4": "unsupported_type",
        "link.txt": "symbolic_link",
    }
    assert manifest["totals"]["n_entries"] == len(manifest["files"]) + len(manifest["quarantine"]) == 13


def test_copies_near_duplicates_and_translations_share_a_cluster(tmp_path: Path) -> None:
    """Copies, a text with one changed word, and the two languages of a page join; an unlike text stays alone."""
    base = _prose(1, 300)
    texts = {
        "a.txt": base,
        "copy.txt": base.upper(),
        "edited.txt": base.replace(base.split()[60], "changed", 1),
        "en/guide.txt": _prose(2),
        "ja/guide.md": "案内を読んでから始めます。" * 9,
        "other.txt": _prose(3),
        "sub/guide.txt": _prose(4),
    }
    for name, text in texts.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text(text, encoding="utf-8")
    manifest = _ingest(tmp_path / "corpus", None, tmp_path / "out")
    clusters = {row["source"]: row["cluster"] for row in manifest["files"]}

    assert clusters == {
        "a.txt": "a.txt", "copy.txt": "a.txt", "edited.txt": "a.txt", "en/guide.txt": "en/guide.txt",
        "ja/guide.md": "en/guide.txt", "other.txt": "other.txt", "sub/guide.txt": "sub/guide.txt",
    }  # fmt: skip
    split = {row["cluster"]: row["split"] for row in manifest["files"]}
    assert all(row["split"] == split[row["cluster"]] for row in manifest["files"])


def test_ingest_writes_documents_and_manifest(tmp_path: Path, glossary: Path) -> None:
    """The files agree with each other and with the corpus; both languages of a page are in one split."""
    corpus = _corpus(tmp_path / "corpus")
    manifest = _ingest(corpus, glossary, tmp_path / "out")
    documents = _documents(tmp_path / "out")

    assert json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")) == manifest
    assert len(documents) == 20 == sum(manifest["totals"]["n_documents"].values())
    assert [document["document_id"] for document in documents] == [row["source"] for row in manifest["files"]]
    split = {document["document_id"]: document["split"] for document in documents}
    assert all(split[f"ja/page{i}.txt"] == split[f"en/page{i}.txt"] for i in range(10))
    japanese = next(d for d in documents if d["document_id"] == "ja/page0.txt")
    span = next(s for s in japanese["spans"] if s["kind"] == "glossary")
    assert japanese["text"][span["start"] : span["end"]] == span["term"] == "設定ファイル"
    assert sum(manifest["totals"]["languages"].values()) == pytest.approx(1.0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["documents.jsonl", "manifest.json"]
    row = manifest["files"][0]
    assert (row["media_type"], row["encoding"], row["private"]) == ("text/plain", "utf-8", {})


def test_ingest_is_repeatable_and_notices_changes(tmp_path: Path, glossary: Path) -> None:
    """The same corpus gives the same bytes, with any number of processes; one changed character changes the hash."""
    corpus = _corpus(tmp_path / "corpus")
    first = _ingest(corpus, glossary, tmp_path / "a")

    assert _ingest(corpus, glossary, tmp_path / "b", n_workers=2) == first
    assert (tmp_path / "a/documents.jsonl").read_bytes() == (tmp_path / "b/documents.jsonl").read_bytes()
    page = corpus / "en" / "page1.txt"
    page.write_text(page.read_text(encoding="utf-8") + "!", encoding="utf-8")
    assert _ingest(corpus, glossary, tmp_path / "c")["corpus_sha256"] != first["corpus_sha256"]


def test_second_run_reads_only_new_and_changed_files(tmp_path: Path, glossary: Path, read_files: list[str]) -> None:
    """A renamed file is known too, a removed one is forgotten, and the outcome is that of a first run."""
    corpus, cache = _corpus(tmp_path / "corpus"), tmp_path / "cache"
    first = _ingest(corpus, glossary, tmp_path / "a", cache=cache)
    assert len(read_files) == 20

    read_files.clear()
    assert _ingest(corpus, glossary, tmp_path / "b", cache=cache) == first
    assert read_files == []

    (corpus / "en" / "page1.txt").write_text(_prose(77), encoding="utf-8")
    (corpus / "new.txt").write_text(_prose(78), encoding="utf-8")
    (corpus / "en" / "page2.txt").rename(corpus / "en" / "renamed.txt")
    (corpus / "en" / "page3.txt").unlink()
    again = _ingest(corpus, glossary, tmp_path / "c", cache=cache)
    assert sorted(read_files) == ["en/page1.txt", "new.txt"]
    assert again == _ingest(corpus, glossary, tmp_path / "d")
    parts = [path for path in cache.rglob("*-*") if path.is_file()]
    assert len(parts) == 20


def test_other_settings_of_cleaning_read_everything_again(
    tmp_path: Path, glossary: Path, read_files: list[str]
) -> None:
    """A text that was cleaned in another way, or with other names, is another text; a split needs no reading."""
    corpus, cache = _corpus(tmp_path / "corpus", 3), tmp_path / "cache"
    _ingest(corpus, glossary, tmp_path / "a", cache=cache)
    read_files.clear()
    _ingest(corpus, glossary, tmp_path / "b", cache=cache, seed=2, test_share=0.3)
    assert read_files == []

    _ingest(corpus, glossary, tmp_path / "c", cache=cache, names=("山田",))
    assert len(read_files) == 6


def test_private_data_is_masked_before_anything_is_written(tmp_path: Path, glossary: Path) -> None:
    """Neither output nor cache hold it; the manifest counts it, and names by their number only."""
    corpus = _corpus(tmp_path / "corpus", 3)
    secret = "連絡先は 山田花子 taro.yamada@yamada-seisakusho.co.jp まで。"
    (corpus / "mail.txt").write_text(secret + _prose(5), encoding="utf-8")
    manifest = _ingest(corpus, glossary, tmp_path / "out", cache=tmp_path / "cache", names=("山田花子",))
    written = [path for folder in ("out", "cache") for path in (tmp_path / folder).rglob("*") if path.is_file()]

    assert manifest["totals"]["private"] == {"EMAIL": 1, "NAME": 1}
    assert manifest["settings"]["n_names"] == 1
    assert len(written) >= 9
    for path in written:
        assert not any(word in path.read_text("utf-8") for word in ("taro.yamada", "山田花子")), path
    (mail,) = (d for d in _documents(tmp_path / "out") if d["document_id"] == "mail.txt")
    assert "[NAME] [EMAIL]" in mail["text"]


def test_lines_of_many_documents_are_left_out(tmp_path: Path, glossary: Path) -> None:
    """A footer goes; a document that is nothing else goes to quarantine, and the counts still add up."""
    corpus, footer = tmp_path / "corpus", "Confidential: for internal use within the company only, do not copy.\n"
    for page in range(10):
        (corpus / f"p{page}.txt").parent.mkdir(parents=True, exist_ok=True)
        (corpus / f"p{page}.txt").write_text(_prose(page) + footer, encoding="utf-8")
    (corpus / "footer.txt").write_text(footer, encoding="utf-8")
    manifest = _ingest(corpus, glossary, tmp_path / "out", boilerplate_share=0.8)

    assert manifest["totals"]["n_boilerplate_lines"] == 1
    assert not any("Confidential" in document["text"] for document in _documents(tmp_path / "out"))
    assert [(entry["source"], entry["reason"]) for entry in manifest["quarantine"]] == [("footer.txt", "too_short")]
    assert manifest["totals"]["n_entries"] == 11


def test_background_text_is_mixed_into_training_only(tmp_path: Path, glossary: Path) -> None:
    """A fifth of the training characters of each language is general text; the corpus's own totals do not change."""
    corpus, general = _corpus(tmp_path / "corpus"), tmp_path / "general"
    general.mkdir()
    for number in range(30):
        (general / f"en{number}.txt").write_text("The weather was fine today, and so we went out.\n" * 5, "utf-8")
        (general / f"ja{number}.txt").write_text("今日はよい天気なので、皆で出かけることにした。\n" * 9, "utf-8")
    plain = _ingest(corpus, glossary, tmp_path / "a")
    mixed = _ingest(corpus, glossary, tmp_path / "b", background=str(general), background_share=0.2)
    documents = _documents(tmp_path / "b")

    def characters(prefix: str, language: str) -> int:
        return sum(
            len(d["text"]) for d in documents
            if d["document_id"].startswith(prefix) and d["split"] == "train" and d["language"] == language
        )  # fmt: skip

    for language in ("ja", "en"):
        assert characters("background/", language) / characters("", language) == pytest.approx(0.2, abs=0.02)
    added = [d for d in documents if d["document_id"].startswith("background/")]
    assert {d["split"] for d in added} == {"train"}
    assert len({d["document_id"] for d in documents}) == len(documents)
    assert mixed["background"]["n_documents"] == len(added)
    assert mixed["totals"] == plain["totals"]
    assert plain["background"]["n_documents"] == 0
    with pytest.raises(PocError, match="got nothing there"):
        _ingest(corpus, glossary, tmp_path / "c", background=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (lambda folder: folder.mkdir(), {}, "the folder is empty"),
        (lambda folder: None, {}, "does not exist"),
        (lambda folder: _corpus(folder, 2), {}, "at least 3 different documents"),
        (lambda folder: _corpus(folder, 5), {"min_characters": 10**6}, "too_short 10"),
        (lambda folder: _corpus(folder, 5), {"test_share": 0.9}, "sum below 1"),
    ],
)
def test_unusable_corpora_are_refused(
    tmp_path: Path, glossary: Path, make: Any, changes: dict[str, Any], message: str
) -> None:
    """Empty, missing and too small corpora and impossible shares end in a PocError and write nothing."""
    make(tmp_path / "corpus")
    with pytest.raises(PocError, match=message):
        _ingest(tmp_path / "corpus", glossary, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_too_many_unreadable_files_stop_the_ingest(tmp_path: Path, glossary: Path) -> None:
    """A corpus of which a third is damaged is refused, names the files, and leaves nothing behind."""
    corpus = _corpus(tmp_path / "corpus", 3)
    for number in range(3):
        (corpus / f"scan{number}.pdf").write_bytes(b"%PDF-1.7 cut off")
    with pytest.raises(PocError, match=r"3 of 9 texts cannot be read.*'scan0\.pdf'"):
        _ingest(corpus, glossary, tmp_path / "out", max_unreadable_share=0.3)

    assert not (tmp_path / "out").exists()
    assert _ingest(corpus, glossary, tmp_path / "out", max_unreadable_share=0.4)["totals"]["n_quarantined"] == 3


def test_names_are_read_a_line_each(tmp_path: Path) -> None:
    """Blank lines and repetitions do not count; a file that is not UTF-8 is refused without its content."""
    path = tmp_path / "names.txt"
    path.write_text("\ufeff山田\n\n 佐藤 \n山田\n", "utf-8")
    assert load_names(path) == ("佐藤", "山田")
    assert load_names(None) == ()

    path.write_bytes("山田".encode("cp932"))
    with pytest.raises(PocError, match="not UTF-8") as caught:
        load_names(path)
    assert "names.txt" in str(caught.value)
