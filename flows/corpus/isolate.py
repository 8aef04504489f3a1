"""Reads files in a process of its own, with limits of memory and time.

The libraries that read office files and pages are large and partly in C; a hostile file may crash them, or make them
work or allocate without end. Here that costs one process, which is replaced, and the file goes to quarantine. The two
processes exchange JSON and plain bytes only, so that a reader that was taken over cannot make the other one run code.
"""

import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flows.corpus.limits import Limits
from flows.corpus.types import FileRef, Rejected, Text

__all__ = ["Reader"]

ROOT = Path(__file__).resolve().parents[2]
STARTING_S = 120.0
"""Time for the process to start, which is no file's fault. [s]"""
_KINDS: dict[str, type[FileRef | Rejected | Text]] = {"file": FileRef, "rejected": Rejected, "text": Text}


class Reader:
    """A process that reads files. It starts with the first file; a dead one is replaced with the next.

    Args:
        limits: Memory and time per file, and what the readers themselves go by.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def read(self, ref: FileRef) -> list[Text | Rejected]:
        """Return what a file holds, as ``readers.read``, whatever the file does to the process that reads it."""
        request = {"task": "read", **_values(ref)}
        found = self._ask(request, ref.source, self._limits.seconds_per_file)
        return [entry for entry in found if not isinstance(entry, FileRef)]

    def unpack(self, ref: FileRef, work: Path) -> list[FileRef | Rejected]:
        """Return the members of an archive, as ``archives.unpack``."""
        request = {"task": "unpack", "work": os.fspath(work), **_values(ref)}
        found = self._ask(request, ref.source, self._limits.seconds_per_archive)
        members = [entry for entry in found if not isinstance(entry, Text)]
        if all(_is_in(entry.path, work) for entry in members if isinstance(entry, FileRef)):
            return members
        return [Rejected(ref.source, "reader_crashed", "the reader named a file outside its folder")]

    def _ask(self, request: dict[str, Any], source: str, seconds: float) -> list[FileRef | Rejected | Text]:
        try:
            connection = self._start()
            deadline = time.monotonic() + seconds
            connection.send_bytes(json.dumps(request).encode())
            found = list(_received(connection, deadline))
        except TimeoutError:
            self._stop()
            return [Rejected(source, "reader_timeout", f"more than {seconds:g} s")]
        except (EOFError, OSError, ValueError, LookupError, TypeError):
            # it died, or sent what no reader sends
            code = self._stop()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return [Rejected(source, "reader_crashed", f"the reader ended with {how}")]
        except BaseException:
            self._stop()
            raise
        if any(isinstance(entry, Rejected) and entry.reason == "too_large" for entry in found):
            # what is left of its memory is in pieces
            self._stop()
        return found

    def _start(self) -> Connection:
        if self._connection is not None:
            return self._connection
        own, other = Pipe()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        # threads of numerical libraries would only take address space
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        limits = json.dumps(dataclasses.asdict(self._limits))
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.corpus.isolate", str(other.fileno()), limits],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # messages of the libraries may quote the file
                pass_fds=[other.fileno()],
                env=environment,
            )
        self._connection = own
        _next(own, time.monotonic() + STARTING_S)
        return own

    def _stop(self) -> int:
        """End the process and return its exit code, which is its own if it has died already."""
        if self._connection is not None:
            self._connection.close()
        code = 0
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.2)
            self._process.kill()
            code = self._process.wait()
        self._process = self._connection = None
        return code


def _is_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _received(connection: Connection, deadline: float) -> Iterator[FileRef | Rejected | Text]:
    while (head := json.loads(_next(connection, deadline))) is not None:
        kind = _KINDS[head.pop("kind")]
        if kind is Text:
            head["text"] = _next(connection, deadline).decode()
        if kind is FileRef:
            head["path"] = Path(head["path"])
        yield kind(**head)


def _next(connection: Connection, deadline: float) -> bytes:
    if not connection.poll(max(deadline - time.monotonic(), 0)):
        raise TimeoutError
    return connection.recv_bytes()


def _values(entry: FileRef | Rejected | Text) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry) if field.name != "text"}
    return {name: os.fspath(value) if isinstance(value, Path) else value for name, value in values.items()}


# --- in the process of the reader ------------------------------------------------------------------------


def _serve(connection: Connection, limits: Limits) -> None:
    from flows.corpus import archives, readers

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who asks decides when it ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send_bytes(b"ready")
        while True:
            request = json.loads(connection.recv_bytes())
            ref = FileRef(request["source"], Path(request["path"]), request["n_bytes"])
            found: Iterable[FileRef | Rejected | Text]
            if request["task"] == "read":
                found = readers.read(ref, limits)
            else:
                found = archives.unpack(ref.path, ref.source, Path(request["work"]), limits)
            for entry in found:
                _send(connection, entry)
            connection.send_bytes(b"null")


def _send(connection: Connection, entry: FileRef | Rejected | Text) -> None:
    text = b""
    if isinstance(entry, Text):
        try:
            text = entry.text.encode()
        except MemoryError:
            entry = Rejected(entry.source, "too_large", "it needs more memory than one file may take")
    kind = next(name for name, cls in _KINDS.items() if isinstance(entry, cls))
    connection.send_bytes(json.dumps({"kind": kind, **_values(entry)}).encode())
    if isinstance(entry, Text):
        connection.send_bytes(text)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])), Limits(**json.loads(sys.argv[2])))
