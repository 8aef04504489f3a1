"""The way of a folder: what is read and in which order, what stays on the disk, and how far it is."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from flows.corpus import pipeline, tasks
from flows.corpus.clean import CleanConfig, LineCounts
from flows.corpus.contamination import NgramOverlap
from flows.corpus.limits import Limits
from flows.corpus.parts import Parts
from flows.corpus.pipeline import Corpus, Done, list_files, overlaps, read_folder, write_documents
from flows.corpus.tasks import Placed, Reading, Writing
from flows.corpus.types import FileRef

TEXT = "The pump is checked every Monday, and the result goes into the book of the shift."


def _reading(tmp_path: Path) -> Reading:
    return Reading(Parts(tmp_path / "cache", "f1"), Limits(), CleanConfig(), ())


def _folder(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "corpus"
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def _read(tmp_path: Path, folder: Path, **changes: Any) -> Corpus:
    arguments: dict[str, Any] = {"min_characters": 10, "n_workers": 1, "report": lambda _: None}
    return read_folder(folder, _reading(tmp_path), **{**arguments, **changes})


def _line_hashes(text: str) -> set[int]:
    """Hashes of the lines of a text."""
    counts = LineCounts()
    for _ in range(5):
        counts.add(text)
    return counts.boilerplate(1.0)


def _zip(path: Path, **members: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_", "."), text)


def test_listing_counts_links_and_follows_none(tmp_path: Path) -> None:
    """Links to files and folders are entries of their own; what they lead to is not looked at."""
    folder = _folder(tmp_path, a_txt="abc", sub__b_txt="de")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "c.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "outside" / "c.txt")
    (folder / "linked").symlink_to(tmp_path / "outside", target_is_directory=True)
    listing = list_files(folder)

    assert sorted(listing.sources) == ["a.txt", "link.txt", "linked", "sub/b.txt"]
    assert listing.n_bytes < 500


def test_a_share_of_a_folder_is_the_same_every_time(tmp_path: Path) -> None:
    """A sample depends on the names alone, and reads neither all nor nothing; nobody misses the others."""
    folder = _folder(tmp_path, **{f"f{i}_txt": f"{TEXT} {i}" for i in range(60)})
    first = _read(tmp_path, folder, share=0.5)

    assert 15 < len(first.rows) < 45
    assert first.rejected == ()
    assert {row.source for row in first.rows} == set(list_files(folder, 0.5).sources)


def test_short_texts_are_left_out_by_the_length_that_is_asked_for(tmp_path: Path) -> None:
    """The limit is applied to what was read, so that another one needs no reading."""
    folder = _folder(tmp_path, long_txt=TEXT, short_txt="Few words.")
    corpus = _read(tmp_path, folder, min_characters=50)

    assert [row.source for row in corpus.rows] == ["long.txt"]
    assert [(entry.source, entry.reason) for entry in corpus.rejected] == [("short.txt", "too_short")]
    assert len(_read(tmp_path, folder, min_characters=5).rows) == 2


def test_members_of_archives_are_documents_and_leave_no_raw_text(tmp_path: Path) -> None:
    """While it is read a member lies in a folder of its own, which is gone afterwards, also after a kill before."""
    folder = _folder(tmp_path, a_txt=TEXT)
    _zip(folder / "b.zip", x_txt=f"{TEXT} x", y_txt=f"{TEXT} y mail to kana@yamada-seisakusho.co.jp")
    left = tmp_path / "cache" / pipeline.UNPACKED / "old.txt"
    left.parent.mkdir(parents=True)
    left.write_text("left by a run that was killed")
    corpus = _read(tmp_path, folder)

    assert [row.source for row in corpus.rows] == ["a.txt", "b.zip!/x.txt", "b.zip!/y.txt"]
    assert not left.parent.exists()
    assert not any(b"kana@" in path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_file_that_vanishes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the reading a shared folder may change; what was there is accounted for."""
    folder = _folder(tmp_path, a_txt=TEXT, b_txt=TEXT)
    walk = pipeline.files.walk

    def vanishing(*arguments: Any) -> Any:
        (folder / "b.txt").unlink()
        return walk(*arguments)

    monkeypatch.setattr(pipeline.files, "walk", vanishing)
    corpus = _read(tmp_path, folder)
    assert [(entry.source, entry.reason) for entry in corpus.rejected] == [("b.txt", "unreadable")]


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's word is the detail, and the other files are read."""

    def refuse(self: Parts, ref: FileRef) -> tuple[str, str]:
        if ref.source == "b.txt":
            raise PermissionError(13, "Permission denied")
        return name(self, ref)

    name = Parts.name
    monkeypatch.setattr(Parts, "name", refuse)
    corpus = _read(tmp_path, _folder(tmp_path, a_txt=TEXT, b_txt=TEXT))

    assert [row.source for row in corpus.rows] == ["a.txt"]
    (entry,) = corpus.rejected
    assert (entry.source, entry.reason, entry.detail) == ("b.txt", "unreadable", "Permission denied")


def test_what_is_nothing_but_page_numbers_is_empty(tmp_path: Path) -> None:
    """A text of which cleaning leaves nothing is told as empty."""
    corpus = _read(tmp_path, _folder(tmp_path, a_txt=TEXT, b_txt="\u200b\ufeff\n \u200b\n"))

    assert [(entry.source, entry.reason) for entry in corpus.rejected] == [("b.txt", "empty")]


def test_a_text_too_long_to_compare_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of cleaning and comparing grows with the text, so that it has a limit, which is told."""
    monkeypatch.setattr(tasks, "MAX_CHARACTERS", 300)
    corpus = _read(tmp_path, _folder(tmp_path, a_txt=TEXT, b_txt=TEXT * 4))

    assert [row.source for row in corpus.rows] == ["a.txt"]
    assert [(entry.source, entry.reason) for entry in corpus.rejected] == [("b.txt", "too_large")]


def test_progress_never_falls_and_ends_at_the_whole(tmp_path: Path) -> None:
    """Reading is the first half, writing the second; the words name files and bytes."""
    folder = _folder(tmp_path, **{f"f{i}_txt": f"{TEXT} {i}" for i in range(5)})
    told: list[Done] = []
    corpus = _read(tmp_path, folder, report=told.append)
    placed = [Placed(row.source, "en", "train", row.source) for row in corpus.rows]
    writing = Writing(_reading(tmp_path).parts, (), set(), 10)
    lines = list(write_documents(corpus, placed, writing, 1, told.append))

    steps = [done.steps()[0] for done in told]
    assert steps == sorted(steps)
    assert told[-1].steps()[0] == told[-1].steps()[1]
    assert told[4].text() == "read 5/5 files, 0.0/0.0 MB"
    assert len(told) == 10
    assert [json.loads(line.line)["document_id"] for _, line in lines if line] == [row.source for row in corpus.rows]


def test_several_texts_of_one_file_keep_their_places(tmp_path: Path) -> None:
    """Of three mails the short one is left out, and the others do not change places."""
    bodies = [f"{TEXT} one", "hi", f"{TEXT} three"]
    box = "".join(f"From a Mon Jan  1 00:00:00 2024\nSubject: s\n\n{body}\n\n" for body in bodies)
    corpus = _read(tmp_path, _folder(tmp_path, m_mbox=box), min_characters=40)
    placed = [Placed(row.source, "en", "train", row.source) for row in corpus.rows]
    lines = write_documents(corpus, placed, Writing(_reading(tmp_path).parts, (), set(), 10), 1, lambda _: None)
    records = [json.loads(line.line) for _, line in lines if line]

    assert [record["document_id"] for record in records] == ["m.mbox!/0", "m.mbox!/2"]
    assert "one" in records[0]["text"]
    assert "three" in records[1]["text"]
    assert [entry.source for entry in corpus.rejected] == ["m.mbox!/1"]


def test_a_crash_of_the_cleaning_costs_one_file(tmp_path: Path) -> None:
    """The entry says so, and is not kept for the next run."""
    entry = pipeline._crashed(FileRef("a.txt", tmp_path, 1))

    assert [rejected.reason for rejected in entry.rejected] == ["reader_crashed"]
    assert entry.part == ""


def test_overlap_finds_a_paragraph_that_was_copied(tmp_path: Path) -> None:
    """A test document half of which stands in training has about half its n-grams there; an own one has none."""
    own = [" ".join(f"{word}{i}" for i in range(80)) for word in ("alpha", "beta", "gamma")]
    split = {"t.txt": "train", "c.txt": "test", "o.txt": "test", "s.txt": "test", "v.txt": "validation"}
    texts = {
        "t_txt": own[0],
        "c_txt": f"{own[0]} {own[1]}",
        "o_txt": own[2],
        "s_txt": "short as it is",
        "v_txt": own[0],
    }
    corpus = _read(tmp_path, _folder(tmp_path, **texts))
    placed = [Placed(row.source, "en", split[row.source], row.source) for row in corpus.rows]
    ngrams = NgramOverlap()
    writing = Writing(_reading(tmp_path).parts, (), set(), 10)
    lines = list(write_documents(corpus, placed, writing, 1, lambda _: None, ngrams))
    shares, total = overlaps(ngrams)

    assert len(lines) == 5
    assert shares["c.txt"] == pytest.approx(0.5, abs=0.1)
    assert (shares["o.txt"], shares["s.txt"]) == (0.0, None)
    assert set(shares) == {"c.txt", "o.txt", "s.txt"}
    assert total["max_share"] == shares["c.txt"]
    assert total["sampled_share"] == 1.0


def test_without_test_text_there_is_no_overlap() -> None:
    """Nothing was looked at, and nothing is said."""
    shares, total = overlaps(NgramOverlap())

    assert shares == {}
    assert (total["share"], total["max_share"], total["n_ngrams"]) == (None, None, 0)


def test_text_that_lost_its_lines_is_not_written(tmp_path: Path) -> None:
    """Without the lines that all share, a text below the limit leaves an empty line in its place."""
    corpus = _read(tmp_path, _folder(tmp_path, a_txt=TEXT))
    (boilerplate,) = _line_hashes(TEXT)
    writing = Writing(_reading(tmp_path).parts, (), {boilerplate}, 10)
    placed = [Placed(row.source, "en", "train", row.source) for row in corpus.rows]
    ((_, line),) = write_documents(corpus, placed, writing, 1, lambda _: None)

    assert line is not None
    assert line.line == b""


def test_tasks_travel_to_processes(tmp_path: Path) -> None:
    """Everything that the processes are given can be pickled."""
    for task in (_reading(tmp_path), Writing(_reading(tmp_path).parts, (), {1}, 10)):
        assert pickle.loads(pickle.dumps(task)) == task
    assert tasks.Written(b"", 0, {}) == pickle.loads(pickle.dumps(tasks.Written(b"", 0, {})))
