"""Progress lines: which stage, how far, how long it took and how long it will take."""

from __future__ import annotations

import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import Protocol, TextIO


class OnEvent(Protocol):
    """Called with what happens, for a log that machines read."""

    def __call__(self, event: str, **values: str | float | bool | None) -> None:
        """Take one event and its values."""


def _nobody_listens(event: str, **values: str | float | bool | None) -> None:
    pass


class ProgressHook(Protocol):
    """Called by compute functions as `hook(done, total)`; any unit, `done` never falls."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Tell how far it is; `text` is shown in place of `done/total`."""


SECONDS_BETWEEN_LINES = 10.0
"""Pace of update lines where the stream is not a terminal. [s]"""
SECONDS_BETWEEN_REDRAWS = 0.2
"""Pace of rewriting the line on a terminal. [s]"""


def clock(seconds: float) -> str:
    """Return a duration as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class StageProgress:
    """Progress of the running stage. Call it as a `ProgressHook`; set `reused` when nothing was computed."""

    def __init__(self, owner: Progress, label: str, started: float) -> None:
        self.reused = False
        self._owner = owner
        self._label = label
        self._started = started
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Tell how far the stage is; printing is paced, so it may be called as often as wanted."""
        now = self._owner.now()
        if self._first is None:
            self._first = (now, done)
        self._owner._update(f"{self._label}: {text or f'{done}/{total}'}, {self._times(now, done, total)}", now)

    def _times(self, now: float, done: int, total: int) -> str:
        elapsed = f"elapsed {clock(now - self._started)}"
        # the first call may report work that an interrupted run had done: it says nothing about the pace
        first_at, first_done = self._first or (now, done)
        if done <= first_done or now <= first_at:
            return elapsed
        remaining = (now - first_at) / (done - first_done) * max(total - done, 0)
        return f"{elapsed}, remaining about {clock(remaining)}"


class Progress:
    """Prints one line when a stage starts and ends, and updates in between.

    On a terminal the update line is rewritten in place; elsewhere a line is printed at most every
    `SECONDS_BETWEEN_LINES`. Safe to call from several threads.

    Args:
        n_stages: Number of stages that will be announced; 0 when unknown.
        stream: Where the lines go; stderr, so that stdout stays for results.
        quiet: Print nothing.
        now: Monotonic clock in seconds; replaced in tests.
    """

    def __init__(
        self,
        n_stages: int = 0,
        *,
        stream: TextIO | None = None,
        quiet: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n_stages = n_stages
        self.now = now
        self.on_event: OnEvent = _nobody_listens
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._is_tty = self._stream.isatty()
        self._started = now()
        self._index = 0
        self._printed_at = float("-inf")
        self._drawn = False
        self._lock = threading.Lock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since this object was made."""
        return self.now() - self._started

    @contextmanager
    def stage(self, what: str) -> Iterator[StageProgress]:
        """Announce a stage, yield its hook, and announce its end with stage and overall time."""
        self._index += 1
        of_all = f"/{self.n_stages}" if self.n_stages else ""
        label = f"[{self._index}{of_all}] {what}"
        started = self.now()
        self._line(f"{label} ...")
        self.on_event("stage started", stage=what)
        hook = StageProgress(self, label, started)
        try:
            yield hook
        except BaseException:
            self._line(f"{label}: stopped after {clock(self.now() - started)}")
            self.on_event("stage stopped", stage=what, seconds=round(self.now() - started, 3))
            raise
        took = "kept from an earlier run" if hook.reused else f"done in {clock(self.now() - started)}"
        self._line(f"{label}: {took} (total {clock(self.elapsed_s)})")
        self.on_event("stage done", stage=what, reused=hook.reused, seconds=round(self.now() - started, 3))

    def skip(self, what: str) -> None:
        """Announce a stage that does not take place, with its reason."""
        self._index += 1
        of_all = f"/{self.n_stages}" if self.n_stages else ""
        self._line(f"[{self._index}{of_all}] {what}")
        self.on_event("stage skipped", stage=what)

    def note(self, text: str) -> None:
        """Print one line of information between or within stages."""
        self._line(text)
        self.on_event("note", text=text)

    def _update(self, text: str, now: float) -> None:
        pace = SECONDS_BETWEEN_REDRAWS if self._is_tty else SECONDS_BETWEEN_LINES
        with self._lock:
            if self._quiet or now - self._printed_at < pace:
                return
            self._printed_at = now
            if self._is_tty:
                self._stream.write("\r\x1b[K" + _cut(text, get_terminal_size().columns - 1))
                self._drawn = True
            else:
                self._stream.write(text + "\n")
            self._stream.flush()

    def _line(self, text: str) -> None:
        with self._lock:
            if self._quiet:
                return
            self._stream.write(("\r\x1b[K" if self._drawn else "") + text + "\n")
            self._stream.flush()
            self._drawn = False
            # an update within the first moments of a stage would only repeat its first line
            self._printed_at = self.now()


def _cut(text: str, columns: int) -> str:
    """Cut a text to a number of terminal columns, where Japanese letters take two."""
    width = 0
    for i, letter in enumerate(text):
        width += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if width > columns:
            return text[:i]
    return text
