"""A folder as companies have them, and as attackers would like them, through the whole ingest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.corpus import tasks
from flows.corpus.reasons import REASONS
from flows.errors import PocError
from flows.ingest import ingest
from tests.e2e.conftest import ROOT
from tests.unit.flows.corpus import documents as make
from tests.unit.flows.corpus.hostile import make_tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GIB = 2**30
PRIVATE = (
    "taro.yamada@yamada-seisakusho.co.jp",
    "03-1234-5678",
    "123456789018",
    "4111 1111 1111 1111",
    "hunter2-s3cret",
)
OUTSIDE = "The outsider keeps a blue parrot that nobody may hear of."
OPTIONS = {"validation_share": 0.2, "test_share": 0.2, "seed": 0, "min_characters": 50}
SCRIPT = """
import json, sys
from pathlib import Path
from flows.ingest import ingest
corpus, out, cache, options = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
ingest(corpus, None, out, cache=cache, n_workers=2, max_unreadable_share=1.0, **options)
"""


@dataclass(frozen=True)
class Tree:
    """The folder after its first ingest."""

    corpus: Path
    out: Path
    cache: Path
    expected: dict[str, str]
    manifest: dict[str, Any]
    peak_bytes: int
    strangers: list[str]
    """What the ingest left beside its own folders."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Make the tree, ingest it in a process of its own, and watch the memory of all its processes."""
    folder = tmp_path_factory.mktemp("tree")
    corpus, out, cache, temporary = (folder / name for name in ("corpus", "out", "cache", "tmp"))
    expected = make_tree(corpus) | _private(corpus)
    (folder / "outside.txt").write_text(OUTSIDE * 20, "utf-8")
    (corpus / "way out.txt").symlink_to(folder / "outside.txt")
    expected["way out.txt"] = "symbolic_link"
    temporary.mkdir()
    before = {path.name for path in folder.iterdir()}
    command = [sys.executable, "-c", SCRIPT, str(corpus), str(out), str(cache), json.dumps(OPTIONS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    log = tmp_path_factory.mktemp("log") / "output.txt"
    peak = 0
    with log.open("wb") as output:
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, sum(_resident(member) for member in (process, *process.children(recursive=True))))
            time.sleep(0.05)
    assert process.returncode == 0, log.read_text("utf-8")
    after = {path.name for path in folder.iterdir()} - before - {"out", "cache"}
    strangers = [*sorted(after), *(path.name for path in temporary.iterdir())]
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    return Tree(corpus, out, cache, expected, manifest, peak, strangers)


def _private(corpus: Path) -> dict[str, str]:
    text = (
        f"担当: {PRIVATE[0]} 電話 {PRIVATE[1]}\n個人番号: {PRIVATE[2]}\nカード番号 {PRIVATE[3]}\n"
        f"password={PRIVATE[4]}\n" + make.japanese(90, 10)
    )
    folder = corpus / "private"
    folder.mkdir()
    (folder / "memo.txt").write_bytes(text.encode("cp932"))
    (folder / "memo.docx").write_bytes(make.docx_bytes(text))
    (folder / "memo.eml").write_bytes(make.mail_bytes("Memo", text, {"memo.csv": text.encode()}))
    (folder / "memo.zip").write_bytes(make.zip_bytes({"memo.html": f"<p>{text}</p>".encode()}))
    word = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    kinds = {"memo.txt": "text/plain", "memo.docx": word, "memo.eml": "message/rfc822"}
    kinds |= {"memo.eml!/memo.csv": "text/csv", "memo.zip!/memo.html": "text/html"}
    return {f"private/{name}": kind for name, kind in kinds.items()}


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def test_every_source_has_its_text_or_the_right_reason(tree: Tree) -> None:
    """Nothing crashed, nothing is missing, and nothing is there that should not be."""
    found = {row["source"]: row["media_type"] for row in tree.manifest["files"]}
    found |= {entry["source"]: entry["reason"] for entry in tree.manifest["quarantine"]}

    assert {source: kind for source, kind in found.items() if tree.expected.get(source) != kind} == {}
    assert set(tree.expected) - set(found) == set()
    assert {entry["reason"] for entry in tree.manifest["quarantine"]} <= set(REASONS)


def test_counts_add_up(tree: Tree) -> None:
    """Each entry stands once, and documents and quarantine together are all there is."""
    totals = tree.manifest["totals"]
    lines = (tree.out / "documents.jsonl").read_text("utf-8").splitlines()
    sources = [row["source"] for row in (*tree.manifest["files"], *tree.manifest["quarantine"])]

    assert totals["n_entries"] == len(sources) == len(tree.expected)
    assert max(Counter(sources).values()) == 1
    assert sum(totals["n_documents"].values()) == len(lines) == len(tree.manifest["files"])
    assert totals["n_quarantined"] == len(tree.manifest["quarantine"]) == sum(totals["reasons"].values())


def test_memory_stays_below_two_gib(tree: Tree) -> None:
    """All processes of the ingest together, a line of 200 MB and several bombs included."""
    assert 0 < tree.peak_bytes < 2 * GIB


def test_nothing_outside_the_folder_is_read_or_written(tree: Tree) -> None:
    """No text behind a link gets in, no member of an archive gets out, and temporary files are gone."""
    written = [path for folder in (tree.out, tree.cache) for path in folder.rglob("*") if path.is_file()]

    assert tree.strangers == []
    assert len(written) > 30
    assert not any(OUTSIDE.encode() in path.read_bytes() for path in written)
    assert not any(path.is_symlink() for path in written)
    assert not (tree.cache.parent / "up.txt").exists()


def test_personal_data_is_in_no_file_that_was_written(tree: Tree) -> None:
    """Whatever format it came in: neither documents, manifest nor cache hold it, and the manifest counts it."""
    needles = [*PRIVATE, PRIVATE[3].replace(" ", ""), *(json.dumps(needle)[1:-1] for needle in PRIVATE)]
    written = [path for folder in (tree.out, tree.cache) for path in folder.rglob("*") if path.is_file()]
    rows = [row for row in tree.manifest["files"] if row["source"].startswith("private/")]

    assert {path.name for path in written} >= {"documents.jsonl", "manifest.json"}
    for path in written:
        content = path.read_bytes()
        assert [needle for needle in needles if needle.encode() in content] == [], path.name
    assert len(rows) == 5
    for row in rows:
        assert {"EMAIL", "PHONE", "MY_NUMBER", "CARD", "PASSWORD"} <= set(row["private"]), row["source"]


def test_no_cluster_crosses_a_split(tree: Tree) -> None:
    """The five forms of one memo are one cluster, and every cluster has one split."""
    rows = tree.manifest["files"]
    split = {row["cluster"]: row["split"] for row in rows}

    assert all(split[row["cluster"]] == row["split"] for row in rows)
    assert len({row["split"] for row in rows if row["source"].startswith("private/memo.")}) == 1


def test_second_run_reads_only_new_and_changed_files(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read again, damaged files included; then one new and one changed file are."""
    sources: list[str] = []

    class Spy(tasks.Reader):
        def read(self, ref: Any) -> Any:
            sources.append(ref.source)
            return super().read(ref)

    monkeypatch.setattr(tasks, "Reader", Spy)
    arguments: dict[str, Any] = {"cache": tree.cache, "max_unreadable_share": 1.0, **OPTIONS}
    again = ingest(tree.corpus, None, tmp_path / "again", **arguments)
    assert sources == []
    assert again == tree.manifest
    assert (tmp_path / "again" / "documents.jsonl").read_bytes() == (tree.out / "documents.jsonl").read_bytes()

    (tree.corpus / "ordinary" / "new.txt").write_text(make.english(70), "utf-8")
    (tree.corpus / "ordinary" / "note.md").write_text(make.english(71), "utf-8")
    changed = ingest(tree.corpus, None, tmp_path / "changed", **arguments)
    assert sorted(sources) == ["ordinary/new.txt", "ordinary/note.md"]
    assert changed["totals"]["n_entries"] == again["totals"]["n_entries"] + 1


def test_such_a_folder_stops_a_run_that_asks_for_better(tree: Tree, tmp_path: Path) -> None:
    """With the usual limit the message says how much is unreadable, and why; nothing is written."""
    with pytest.raises(PocError, match=r"texts cannot be read \(.*damaged.*encrypted") as caught:
        ingest(tree.corpus, None, tmp_path / "out", cache=tree.cache, **OPTIONS)

    assert "corpus.max_unreadable_share" in str(caught.value)
    assert not (tmp_path / "out").exists()
