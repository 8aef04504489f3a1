"""Ingest: reading with quarantine, clusters, splits and the files it writes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.errors import PocError
from flows.ingest import Document, clusters_of, ingest, language_of, normalise, read_corpus, split_clusters
from flows.terms import COLUMNS

WORDS = [f"word{i:03d}" for i in range(400)]


def _prose(seed: int, n_words: int = 120) -> str:
    """Text of random words: two seeds give unlike texts."""
    return " ".join(random.Random(seed).choices(WORDS, k=n_words)) + ".\n"


def _document(source: str, text: str, language: str = "en") -> Document:
    return Document(source, "0" * 64, len(text.encode()), language, text)


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


def _ingest(corpus: Path, glossary: Path, out: Path, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"validation_share": 0.2, "test_share": 0.2, "seed": 1, "min_characters": 50}
    return ingest(corpus, glossary, out, **{**arguments, **changes})


def test_normalise() -> None:
    """Composes characters, unifies line ends, drops the byte order mark and trailing white space."""
    assert normalise("\ufeffか\u3099 \r\nb\t\rc") == "が\nb\nc\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("これは KeepAlive の説明", "ja"), ("KeepAlive keeps 接続 open for a while", "en"), ("12 34", "en")],
)
def test_language(text: str, expected: str) -> None:
    """Japanese letters decide by their share among all letters; digits alone are English."""
    assert language_of(text) == expected


def test_unusable_files_go_to_quarantine_with_a_reason(tmp_path: Path) -> None:
    """Every file of the folder is either a document or in quarantine."""
    (tmp_path / "good.md").write_text(_prose(1), encoding="utf-8")
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "short.txt").write_text("short", encoding="utf-8")
    (tmp_path / "sjis.txt").write_bytes("設定ファイル".encode("shift_jis"))
    (tmp_path / "binary.txt").write_bytes(b"ab\x00cd" * 30)
    (tmp_path / "slides.pptx").write_bytes(b"PK")
    (tmp_path / "link.txt").symlink_to(tmp_path / "good.md")
    documents, rejected = read_corpus(tmp_path, min_characters=50)
    assert [document.source for document in documents] == ["good.md"]
    assert {entry.source: entry.reason for entry in rejected} == {
        "empty.txt": "empty",
        "short.txt": "too_short",
        "sjis.txt": "not_utf8",
        "binary.txt": "not_text",
        "slides.pptx": "unsupported_type",
        "link.txt": "symbolic_link",
    }


def test_copies_near_duplicates_and_translations_share_a_cluster() -> None:
    """Copies, a text with one changed word, and the two languages of a page join; an unlike text stays alone."""
    base = _prose(1)
    documents = [
        _document("a.txt", base),
        _document("copy.txt", base.upper().replace(" ", "\n")),
        _document("edited.txt", base.replace(base.split()[60], "changed", 1)),
        _document("en/guide.txt", _prose(2)),
        _document("ja/guide.md", "案内" * 60, "ja"),
        _document("guide.ja.txt", "手引き" * 50, "ja"),
        _document("other.txt", _prose(3)),
        _document("sub/guide.txt", _prose(4)),
    ]
    clusters = clusters_of(documents)
    assert clusters == ["a.txt"] * 3 + ["en/guide.txt"] * 3 + ["other.txt", "sub/guide.txt"]


def test_half_shared_text_is_not_a_near_duplicate() -> None:
    """Two texts that share half of their words stay apart."""
    shared = _prose(1)
    documents = [_document("a.txt", shared + _prose(2)), _document("b.txt", shared + _prose(3))]
    assert clusters_of(documents) == ["a.txt", "b.txt"]


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.sampled_from(["ja", "en"]), st.integers(0, 9)), min_size=4, max_size=40
    ),
    st.integers(0, 1000),
)
def test_split_covers_every_cluster_and_leaves_none_empty(rows: list[tuple[int, str, int]], seed: int) -> None:
    """Every cluster has one split, and with three clusters or more no split is empty."""
    documents = [_document(f"{i}.txt", "x" * size, language) for i, (size, language, _) in enumerate(rows)]
    clusters = [f"cluster{cluster}" for _, _, cluster in rows]
    shares = {"validation_share": 0.2, "test_share": 0.2}
    if len(set(clusters)) < 3:
        with pytest.raises(PocError, match="at least 3 different documents"):
            split_clusters(documents, clusters, seed=seed, **shares)
        return
    split = split_clusters(documents, clusters, seed=seed, **shares)
    assert set(split) == set(clusters)
    assert set(split.values()) == {"train", "validation", "test"}


def test_split_shares_are_kept_and_depend_on_the_seed() -> None:
    """Of 200 equal documents 20 % and 10 % are held out, and another seed holds out others."""
    documents = [_document(f"{i}.txt", "x" * 100) for i in range(200)]
    sources = [document.source for document in documents]
    first, second = (
        split_clusters(documents, sources, validation_share=0.2, test_share=0.1, seed=seed) for seed in (1, 2)
    )
    assert [list(first.values()).count(name) for name in ("train", "validation", "test")] == [140, 40, 20]
    assert first != second


def test_ingest_writes_documents_and_manifest(tmp_path: Path, glossary: Path) -> None:
    """The files agree with each other and with the corpus; both languages of a page are in one split."""
    corpus = _corpus(tmp_path / "corpus")
    manifest = _ingest(corpus, glossary, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")) == manifest
    lines = (tmp_path / "out" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    assert len(documents) == 20 == sum(manifest["totals"]["n_documents"].values())
    split = {document["document_id"]: document["split"] for document in documents}
    assert all(split[f"ja/page{i}.txt"] == split[f"en/page{i}.txt"] for i in range(10))
    japanese = next(d for d in documents if d["document_id"] == "ja/page0.txt")
    span = next(s for s in japanese["spans"] if s["kind"] == "glossary")
    assert japanese["text"][span["start"] : span["end"]] == span["term"] == "設定ファイル"
    assert sum(manifest["totals"]["languages"].values()) == pytest.approx(1.0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["documents.jsonl", "manifest.json"]


def test_ingest_is_repeatable_and_notices_changes(tmp_path: Path, glossary: Path) -> None:
    """The same corpus gives the same bytes; one changed character changes the corpus hash."""
    corpus = _corpus(tmp_path / "corpus")
    first = _ingest(corpus, glossary, tmp_path / "a")
    assert _ingest(corpus, glossary, tmp_path / "b") == first
    assert (tmp_path / "a/documents.jsonl").read_bytes() == (tmp_path / "b/documents.jsonl").read_bytes()
    page = corpus / "en" / "page1.txt"
    page.write_text(page.read_text(encoding="utf-8") + "!", encoding="utf-8")
    assert _ingest(corpus, glossary, tmp_path / "c")["corpus_sha256"] != first["corpus_sha256"]


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
