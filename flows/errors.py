"""Errors of the flows.

PocError    anything a person can put right: settings, inputs, disk, a missing model, an unreachable server

The command line turns a PocError into one message on stderr and exit code 2; everything else is a defect
and keeps its traceback.
"""

from __future__ import annotations

EXIT_CODE = 2
"""Exit code of the command line for an error that the user can put right."""


class PocError(Exception):
    """Something the user can put right.

    Args:
        what: What happened: expected and got, in one sentence.
        where: Setting path, file or stage.
        todo: What to do next.
    """

    def __init__(self, what: str, *, where: str, todo: str) -> None:
        super().__init__(what, where, todo)
        self.what = what
        self.where = where
        self.todo = todo

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  do: {self.todo}"

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only arguments do not survive the default pickling, which Prefect uses for failed states
        return (_rebuild, (self.what, self.where, self.todo))


def _rebuild(what: str, where: str, todo: str) -> PocError:
    return PocError(what, where=where, todo=todo)
