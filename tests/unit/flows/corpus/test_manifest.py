"""The accounts of a corpus: overlooked files, the limit of unreadable ones, totals, and how they are written."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.corpus.manifest import check_readable, overlooked, reasons_text, totals, write_manifest, writing_atomically
from flows.corpus.types import Rejected
from flows.errors import PocError


def _rejected(**counts: int) -> list[Rejected]:
    return [Rejected(f"{reason}{i}", reason, "detail") for reason, n in counts.items() for i in range(n)]


def test_a_file_of_which_nothing_came_is_told() -> None:
    """Members and messages stand for their file, at any depth; a folder whose name ends in ! is no archive."""
    listed = ["a.txt", "b.zip", "c.mbox", "odd!/d.txt", "gone.txt", "empty.zip"]
    outcomes = ["a.txt", "b.zip!/x/y.zip!/z.txt", "c.mbox!/0", "odd!/d.txt"]

    assert [entry.source for entry in overlooked(listed, outcomes)] == ["gone.txt", "empty.zip"]
    assert {entry.reason for entry in overlooked(listed, [])} == {"unreadable"}


def test_too_many_unreadable_texts_stop_with_counts_and_names() -> None:
    """The message says how many of how many, why, which, and which setting allows more; no detail of a file."""
    rejected = _rejected(damaged=2, encrypted=1, too_short=1, unsupported_type=50)
    check_readable(6, rejected, 0.3, "corpus")
    with pytest.raises(PocError) as caught:
        check_readable(6, rejected, 0.29, "corpus")

    text = str(caught.value)
    assert "3 of 10 texts cannot be read (damaged 2, encrypted 1)" in text
    assert "'damaged0'" in text
    assert "corpus.max_unreadable_share" in text


@pytest.mark.parametrize("reason", ["symbolic_link", "unsupported_type", "empty", "too_short"])
def test_files_without_text_do_not_stop_a_run(reason: str) -> None:
    """Pictures, links, empty and short files beside the documents are normal."""
    check_readable(1, _rejected(**{reason: 99}), 0.0, "corpus")


def test_names_of_files_cannot_break_the_message() -> None:
    """A line feed or an emoji in a name is shown as an escape."""
    with pytest.raises(PocError) as caught:
        check_readable(0, [Rejected("a\nb\U0001f600.pdf", "damaged", "")], 0.0, "corpus")

    assert "'a\\nb\\U0001f600.pdf'" in str(caught.value)


def test_totals_add_up() -> None:
    """Entries are documents plus quarantine; masked data and reasons are summed by kind."""

    def row(split: str, language: str, characters: int, **private: int) -> dict[str, Any]:
        return {"split": split, "language": language, "characters": characters, "bytes": 10, "cluster": split,
                "media_type": "text/plain", "private": private, "n_spans": {"code": 1}}  # fmt: skip

    rows = [row("train", "ja", 30, EMAIL=2), row("train", "en", 50, EMAIL=1, CARD=1), row("test", "en", 20)]
    found = totals(rows, _rejected(empty=2, damaged=1), ["code"])

    assert found["n_entries"] == 6 == sum(found["n_documents"].values()) + found["n_quarantined"]
    assert found["n_documents"] == {"train": 2, "validation": 0, "test": 1}
    assert found["languages"] == {"ja": 0.3, "en": 0.7}
    assert found["private"] == {"CARD": 1, "EMAIL": 3}
    assert found["reasons"] == {"damaged": 1, "empty": 2}
    assert found["n_spans"]["train"] == {"code": 2}


def test_manifest_is_json_with_a_line_per_entry(tmp_path: Path) -> None:
    """What is written is what is read; a person can search it line by line."""
    manifest = {"a": {"b": [1, 2]}, "files": [{"source": "ü\n"}, {"source": "b"}], "quarantine": [], "n": None}
    write_manifest(tmp_path / "manifest.json", manifest)
    text = (tmp_path / "manifest.json").read_text("utf-8")

    assert json.loads(text) == manifest
    assert '\n, {"source": "b"}]' in text


def test_half_a_file_is_never_seen(tmp_path: Path) -> None:
    """After a failure there is neither the file nor its beginning."""

    def fail() -> None:
        with writing_atomically(tmp_path / "a.txt") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert list(tmp_path.iterdir()) == []


def test_reasons_are_counted_in_order() -> None:
    """The list reads the same on every run."""
    assert reasons_text(_rejected(empty=1, damaged=2)) == "damaged 2, empty 1"
