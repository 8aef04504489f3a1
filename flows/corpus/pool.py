"""Files over a pool of processes: results in the order of the jobs, a bounded number of them under way."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing import connection
from multiprocessing.util import Finalize
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Task", "ordered_map"]

Job = TypeVar("Job")
Result = TypeVar("Result")
Job_contra = TypeVar("Job_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

AHEAD = 4
"""Jobs under way per process: enough that none waits, few enough that their results need no memory."""

_call: Callable[[Any], Any]


class Task(Protocol[Job_contra, Result_co]):
    """What a process does. It travels to the process once; ``open`` makes there what all its jobs share."""

    def open(self) -> AbstractContextManager[Callable[[Job_contra], Result_co]]:
        """Return the function that turns a job into its result, as a context that ends with the process."""


def ordered_map(
    task: Task[Job, Result], jobs: Iterable[Job], n_workers: int, crashed: Callable[[Job], Result]
) -> Iterator[Result]:
    """Yield the result of every job, in the order of the jobs.

    Jobs are taken only as results are, so that neither jobs nor results pile up. With one worker everything is done
    in this process, which spares small folders the start of another one.

    Args:
        task: What to do with a job.
        jobs: Any number of jobs.
        n_workers: Processes.
        crashed: Gives the result of a job that killed its process even when it had one for itself.
    """
    if n_workers <= 1:
        with task.open() as call:
            yield from map(call, jobs)
        return
    pool = _Pool(task, n_workers, crashed)
    try:
        for job in jobs:
            pool.submit(job)
            if pool.n_under_way >= AHEAD * n_workers:
                yield pool.next_result()
        while pool.n_under_way:
            yield pool.next_result()
    finally:
        pool.close()


class _Pool(Generic[Job, Result]):
    """Processes that are replaced when one dies: its job, and those beside it, are then done one at a time."""

    def __init__(self, task: Task[Job, Result], n_workers: int, crashed: Callable[[Job], Result]) -> None:
        self._task = task
        self._n_workers = n_workers
        self._crashed = crashed
        self._executor = self._start(n_workers)
        self._under_way: deque[tuple[Job, ProcessPoolExecutor, Future[Result] | None]] = deque()

    @property
    def n_under_way(self) -> int:
        return len(self._under_way)

    def submit(self, job: Job) -> None:
        future: Future[Result] | None = None
        with contextlib.suppress(BrokenProcessPool):
            future = self._executor.submit(_work, job)
        self._under_way.append((job, self._executor, future))

    def next_result(self) -> Result:
        job, executor, future = self._under_way.popleft()
        with contextlib.suppress(BrokenProcessPool):
            if future is not None:
                return future.result()
        if executor is self._executor:
            executor.shutdown()
            self._executor = self._start(self._n_workers)
        with self._start(1) as alone, contextlib.suppress(BrokenProcessPool):
            result: Result = alone.submit(_work, job).result()
            return result
        return self._crashed(job)

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _start(self, n_workers: int) -> ProcessPoolExecutor:
        # not fork: this process has threads, and perhaps a GPU context, that a fork would leave in an unknown state
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(n_workers, context, initializer=_begin, initargs=(self._task,))


def _begin(task: Task[Any, Any]) -> None:
    global _call  # noqa: PLW0603 - a pool's process has no other place for what its jobs share
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    shared = contextlib.ExitStack()
    _call = shared.enter_context(task.open())
    Finalize(None, shared.close, exitpriority=1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(job: Any) -> Any:
    return _call(job)
