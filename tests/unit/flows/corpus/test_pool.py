"""The pool of processes: order, a bounded number under way, and what happens when a process dies."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.corpus.pool import AHEAD, ordered_map


@dataclass(frozen=True)
class Square:
    """Squares a number; -1 kills the process, -2 only the first time."""

    folder: Path

    @contextmanager
    def open(self) -> Iterator[Callable[[int], int]]:
        yield self._square

    def _square(self, number: int) -> int:
        mark = self.folder / "killed"
        if number == -1 or (number == -2 and not mark.exists()):
            mark.touch()
            os._exit(1)
        return number * number


@pytest.mark.parametrize("n_workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(tmp_path: Path, n_workers: int) -> None:
    """With and without processes, result k belongs to job k."""
    results = ordered_map(Square(tmp_path), range(40), n_workers, lambda job: -1)

    assert list(results) == [number * number for number in range(40)]


def test_jobs_are_taken_only_as_results_are(tmp_path: Path) -> None:
    """A caller that stops reading stops the jobs: a large folder never piles up."""
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = ordered_map(Square(tmp_path), jobs(), 2, lambda job: -1)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 2 * AHEAD + 3
    results.close()  # type: ignore[attr-defined]


def test_a_job_that_kills_its_process_costs_no_other_job(tmp_path: Path) -> None:
    """The killer gets the result of a crash, its neighbours their own; one that kills only once gets its own too."""
    results = ordered_map(Square(tmp_path), [1, 2, -1, 3, -1, 4], 2, lambda job: 1000 + job)
    assert list(results) == [1, 4, 999, 9, 999, 16]

    (tmp_path / "killed").unlink()
    assert list(ordered_map(Square(tmp_path), [5, -2, 6], 2, lambda job: -1)) == [25, 4, 36]
