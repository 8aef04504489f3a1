from __future__ import annotations

import io

import pytest

from flows.progress import Progress, clock


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the seconds that the test has set."""
        return self.seconds


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (600, "10:00"), (3725, "1:02:05")]
)
def test_clock_reads_as_people_write_it(seconds, text):
    """Minutes and seconds, hours when there are any."""
    assert clock(seconds) == text


def test_stage_prints_start_updates_and_end():
    """Start, paced updates with remaining time, end with stage and overall time."""
    now, stream = Clock(), io.StringIO()
    progress = Progress(2, stream=stream, now=now)

    with progress.stage("dense tune") as hook:
        hook(0, 30)
        for done in range(1, 31):
            now.seconds = float(done)
            hook(done, 30)
    with progress.stage("sweep"):
        now.seconds = 90.0

    assert stream.getvalue().splitlines() == [
        "[1/2] dense tune ...",
        "[1/2] dense tune: 10/30, elapsed 0:10, remaining about 0:20",
        "[1/2] dense tune: 20/30, elapsed 0:20, remaining about 0:10",
        "[1/2] dense tune: 30/30, elapsed 0:30, remaining about 0:00",
        "[1/2] dense tune: done in 0:30 (total 0:30)",
        "[2/2] sweep ...",
        "[2/2] sweep: done in 1:00 (total 1:30)",
    ]


def test_remaining_time_ignores_work_of_an_earlier_run():
    """A stage that resumes at 90 of 100 is judged by its own pace, not by the 90 it found."""
    now, stream = Clock(), io.StringIO()

    with Progress(stream=stream, now=now).stage("sweep") as hook:
        hook(90, 100)
        now.seconds = 20.0
        hook(92, 100)

    assert "92/100, elapsed 0:20, remaining about 1:20" in stream.getvalue()


def test_reused_stage_says_so():
    """A stage that was not computed does not claim a time."""
    stream = io.StringIO()

    with Progress(1, stream=stream, now=Clock()).stage("ingest") as hook:
        hook.reused = True

    assert "[1/1] ingest: kept from an earlier run" in stream.getvalue()


def test_failed_stage_says_so_and_passes_the_error_on():
    """The last line tells which stage stopped."""
    stream = io.StringIO()
    progress = Progress(1, stream=stream, now=Clock())

    with pytest.raises(ValueError, match="x"), progress.stage("ingest"):
        raise ValueError("x")

    assert stream.getvalue().endswith("[1/1] ingest: stopped after 0:00\n")


def test_terminal_line_is_rewritten_and_cut():
    """On a terminal updates stay on one line, cut to its width by Japanese letters' double width."""
    now, stream = Clock(), Terminal()

    with Progress(1, stream=stream, now=now).stage("調整" * 60) as hook:
        now.seconds = 1.0
        hook(1, 2)
        now.seconds = 1.1
        hook(2, 2)

    updates = [part for part in stream.getvalue().split("\r\x1b[K") if not part.endswith("\n")]
    assert len(updates) == 1
    assert 60 <= len(updates[0]) * 2 <= 2 * 80
    assert stream.getvalue().count("\n") == 2


def test_quiet_prints_nothing():
    """For schedulers that only want the result."""
    stream = io.StringIO()
    progress = Progress(1, stream=stream, quiet=True, now=Clock())

    with progress.stage("ingest") as hook:
        hook(1, 2)
    progress.note("x")

    assert stream.getvalue() == ""


def test_words_may_stand_in_place_of_the_count():
    """A stage that counts two things says so itself; the remaining time still comes from the count."""
    now, stream = Clock(), io.StringIO()

    with Progress(stream=stream, now=now).stage("read documents") as hook:
        hook(0, 100)
        now.seconds = 20.0
        hook(50, 100, "read 5/9 files")

    assert "read documents: read 5/9 files, elapsed 0:20, remaining about 0:20" in stream.getvalue()
