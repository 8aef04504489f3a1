"""Content-addressed stages and run folders.

A stage is a folder `store/<name>-<key>/` whose key is the hash of its inputs and of the code that made it.
It is worked on in `<name>-<key>.partial/`, which survives a kill, and renamed when it is complete: a folder
without `.partial` is whole, and is never computed again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flows import intact, meter
from flows.errors import PocError
from flows.hashes import Json, sha256_file, sha256_json

__all__ = [
    "CODE_ROOT", "Json", "RunFolder", "StageResult", "Store", "clear_disk_errors", "locked", "read_json", "sha256_code",
    "sha256_file", "sha256_folder", "sha256_json", "write_json",
]  # fmt: skip

CODE_ROOT = Path(__file__).resolve().parents[1]
"""Folder that holds the four packages, in a checkout and in site-packages alike."""

KEY_LENGTH = 16
_SOURCE_SUFFIXES = {".py", ".json", ".yaml", ".j2", ".css", ".js"}
FULL_BELOW_BYTES = 16 * 2**20
"""With less room than this after a failure, the failure is blamed on the disk."""

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


# --- hashes of code and folders, JSON ------------------------------------------------------------------


def sha256_folder(folder: Path) -> str:
    """Return one hash over the names and bytes of all files below a folder. Links are not followed.

    Raises:
        PocError: There is no such folder.
    """
    if not folder.is_dir():
        raise PocError("the folder of documents is missing", where=str(folder),
                       todo="set corpus.folder in poc.yaml to the folder that holds the texts")  # fmt: skip
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
    )
    # a name in another encoding than UTF-8 is no text; its bytes are
    names = (os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace") for path in files)
    return sha256_json([[name, sha256_file(path)] for name, path in zip(names, files, strict=True)])


@functools.cache
def sha256_code(names: tuple[str, ...]) -> str:
    """Return one hash over the sources of rooms (`skipmodel`) and modules (`flows/ingest.py`).

    Raises:
        FileNotFoundError: No such room or module: a defect of the caller, not of the user's input.
    """
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        target = CODE_ROOT / name
        files = [target]
        if target.is_dir():  # texts and templates of a room decide its output too; the sample is data, not code
            found = (file for file in target.rglob("*") if file.suffix in _SOURCE_SUFFIXES)
            files = sorted(file for file in found if "sample" not in file.relative_to(target).parts)
        if not files:
            raise FileNotFoundError(f"no sources under {name}")
        for file in files:
            digest.update(f"{file.relative_to(CODE_ROOT).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        PocError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise PocError(f"{path.name} is missing", where=str(path),
                       todo="run the PoC again; finished stages are kept") from error  # fmt: skip
    except ValueError as error:
        raise PocError(f"{path.name} is not valid JSON: {error}", where=str(path),
                       todo="remove the folder that holds it and run the PoC again") from error  # fmt: skip


def write_json(path: Path, value: Json, *, mode: int = 0o666) -> None:
    """Write JSON atomically: readers see the old file or the whole new one, also after a kill.

    Keys are sorted, text stays readable UTF-8.

    Args:
        path: The file.
        value: What it holds.
        mode: Permissions from the first byte on, less the umask.

    Raises:
        ValueError: The value holds NaN or infinity; missing numbers are null with a reason.
        PocError: The disk is full or the folder is not writable.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with clear_disk_errors(path):
        try:
            partial.unlink(missing_ok=True)  # the rest of a killed attempt may be open to others
            with open(partial, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_once(path: Path, make: Callable[[], Json]) -> None:
    """Write what `make` returns as JSON, unless an earlier attempt at a stage has written it already."""
    if not path.exists():
        write_json(path, make())


@contextlib.contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission inside the block into a PocError that names `path`."""
    try:
        yield
    except PocError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        detail = str(error).splitlines()[0][:200] if str(error) else type(error).__name__  # SQL goes on for lines
        if code in _NO_PERMISSION:
            raise PocError(
                f"no permission ({detail})",
                where=str(path),
                todo="allow it, or choose another folder with --runs-dir",
            ) from error
        if code in _DISK_FULL or "No space left on device" in str(error) or _is_full(path):
            raise PocError(
                f"the disk is full ({detail})",
                where=str(path),
                todo="free some space and run the same command again; finished stages are kept",
            ) from error
        raise


def _is_full(path: Path) -> bool:
    # torch, safetensors and SQLite report a full disk as errors of their own, without an errno
    folder = next((parent for parent in (path, *path.parents) if parent.is_dir()), None)
    return folder is not None and shutil.disk_usage(folder).free < FULL_BELOW_BYTES


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file while the block runs; `on_wait` is called once when somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file releases the lock, and so does the end of the process, kill -9 included


# --- stages ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageResult:
    """One finished stage."""

    name: str
    key: str
    path: Path
    """Folder with the stage's files."""
    seconds: float
    """Time of the computation itself, also when it was done by an earlier run. [s]"""
    reused: bool
    """True when this call found the stage finished."""


@dataclass(frozen=True)
class Store:
    """The folder of finished and half-finished stages.

    Args:
        root: Usually `runs/store`; made on first use.
        on_wait: Called with the stage name when another process works on the same stage.
        on_damage: Called with the stage name and what is wrong when finished or half-done work cannot be taken.
    """

    root: Path
    on_wait: Callable[[str], None] = lambda name: None
    on_damage: Callable[[str, str], None] = lambda name, what: None

    def key(self, name: str, inputs: Mapping[str, Json], code: Sequence[str]) -> str:
        """Return the key of a stage: a hash of its name, its inputs and the sources named in `code`."""
        return sha256_json({"name": name, "inputs": inputs, "code": sha256_code(tuple(code))})[:KEY_LENGTH]

    def find(self, name: str, inputs: Mapping[str, Json], code: Sequence[str]) -> StageResult | None:
        """Return the finished stage, or None when it still has to be computed, or is damaged."""
        key = self.key(name, inputs, code)
        return None if intact.damage(self.root / f"{name}-{key}") else self._finished(name, key)

    def run(
        self,
        name: str,
        inputs: Mapping[str, Json],
        code: Sequence[str],
        compute: Callable[[Path], None],
    ) -> StageResult:
        """Return the finished stage, computing it when it is not there yet.

        `compute` gets the `.partial` folder. It finds there what an interrupted run of the same stage left
        behind, and may go on from it; whatever it writes should be atomic for that.

        Args:
            name: Stage name, lower case, part of the folder name.
            inputs: Everything that decides the result: settings, hashes of files, keys of earlier stages.
            code: Rooms or module files whose sources belong to the key, such as `skipmodel` or
                `flows/ingest.py`.
            compute: Writes the stage's files into the folder it is given.

        Raises:
            PocError: The disk is full or the folder is not writable. The partial folder stays.
        """
        key = self.key(name, inputs, code)
        final = self.root / f"{name}-{key}"
        partial = final.with_name(final.name + ".partial")
        with clear_disk_errors(final):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = self.root / ".locks" / final.name
            with locked(lock, functools.partial(self.on_wait, name)):
                before: dict[str, Json] = {}
                if final.is_dir():
                    damage = intact.damage(final)
                    if damage is None:
                        return self._load(name, key)
                    before = self._set_aside(name, final, damage)
                resumed = partial.exists()
                partial.mkdir(exist_ok=True)
                for torn in partial.rglob(".*.partial"):  # half-written files of an attempt that was killed
                    torn.unlink()
                for lost in intact.mend(partial):
                    self.on_damage(name, f"{lost} of the interrupted attempt cannot be read and is made again")
                started = time.perf_counter()
                with meter.measured() as usage:
                    compute(partial)
                seconds = time.perf_counter() - started
                record: dict[str, Json] = {
                    "name": name,
                    "key": key,
                    "inputs": inputs,
                    "seconds": seconds,  # of the last attempt when `resumed`
                    "resumed": resumed,
                    "created_at": before.get("created_at", _now().isoformat(timespec="seconds")),
                    "sequence": before.get("sequence", self._next()),
                    "peak_memory_mib": round(usage.peak_memory_mib, 1),
                    "peak_gpu_memory_mib": usage.peak_gpu_memory_mib,
                    "system": {"at_s": usage.at_s, **usage.samples},
                    "files": intact.inventory(partial),
                }
                write_json(partial / "stage.json", intact.sealed(record))
                os.rename(partial, final)
        return StageResult(name, key, final, seconds, reused=False)

    def _finished(self, name: str, key: str) -> StageResult | None:
        return self._load(name, key) if (self.root / f"{name}-{key}").is_dir() else None

    def _load(self, name: str, key: str) -> StageResult:
        final = self.root / f"{name}-{key}"
        record = read_json(final / "stage.json")
        return StageResult(name, key, final, float(record["seconds"]), reused=True)

    def _set_aside(self, name: str, final: Path, damage: str) -> dict[str, Json]:
        """Move a damaged stage away and return its record, if that can still be read."""
        before: dict[str, Json] = {}
        with contextlib.suppress(PocError):
            before = read_json(final / "stage.json")
        aside = self.root / ".damaged"
        aside.mkdir(exist_ok=True)
        place = next(place for i in range(1, 10**6) if not (place := aside / f"{final.name}-{i}").exists())
        os.rename(final, place)
        self.on_damage(name, f"{damage}; set aside as .damaged/{place.name} and computed again")
        return before

    def _next(self) -> int:
        """Return the number of the next stage that is finished: an order that no change of the clock touches."""
        with locked(self.root / ".locks" / "sequence", lambda: None):
            path = self.root / ".sequence"
            number = 1 + (int(path.read_text("ascii") or 0) if path.exists() else 0)
            fresh = path.with_name(".sequence.partial")
            fresh.write_text(f"{number}\n", "ascii")
            os.replace(fresh, path)
        return number


# --- run folders -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: what was registered, and where its result goes."""

    path: Path
    id: str
    created_at: str
    """Start of the first attempt, ISO 8601 with offset."""
    reused: bool
    """True when an earlier run of the same plan, code and inputs is taken again."""

    @classmethod
    def find(
        cls, runs_dir: Path, *, plan_sha256: str, code_sha256: str, input_sha256: Mapping[str, str]
    ) -> RunFolder | None:
        """Return the newest folder of this plan, code and inputs, complete or not, or None."""
        run_key = _run_key(plan_sha256, code_sha256, input_sha256)
        for candidate in sorted(runs_dir.glob("[0-9]*-*/run.json"), reverse=True):
            record = read_json(candidate)
            if record["run_key"] == run_key:
                return cls(candidate.parent, candidate.parent.name, record["created_at"], reused=True)
        return None

    @classmethod
    def open(cls, runs_dir: Path, *, plan_sha256: str, code_sha256: str, input_sha256: Mapping[str, str]) -> RunFolder:
        """Take the newest folder of the same plan, code and inputs again, complete or not, or make one.

        Raises:
            PocError: The runs folder cannot be written.
        """
        with clear_disk_errors(runs_dir):
            runs_dir.mkdir(parents=True, exist_ok=True)
            with locked(runs_dir / ".lock", lambda: None):
                found = cls.find(runs_dir, plan_sha256=plan_sha256, code_sha256=code_sha256, input_sha256=input_sha256)
                if found is not None:
                    return found
                run_key = _run_key(plan_sha256, code_sha256, input_sha256)
                now = _now()
                folder = _new_folder(runs_dir, f"{now:%Y%m%d-%H%M%S}-{plan_sha256[:8]}")
                created_at = now.isoformat(timespec="seconds")
                record: dict[str, Json] = {"run_key": run_key, "created_at": created_at, "plan_sha256": plan_sha256,
                          "code_sha256": code_sha256, "input_sha256": dict(input_sha256)}  # fmt: skip
                write_json(folder / "run.json", record)
                return cls(folder, folder.name, created_at, reused=False)

    def locked(self, on_wait: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Hold this run folder: a second process of the same run waits, and then finds everything finished."""
        return locked(self.path / ".lock", on_wait)

    def make_latest(self) -> Path:
        """Let `runs/latest` name this folder, atomically, and return the link."""
        link = self.path.parent / "latest"
        with clear_disk_errors(link):
            if link.is_dir() and not link.is_symlink():
                raise PocError(f"{link.name} is a folder, not a link", where=str(link),
                               todo="move it away and run the same command again")  # fmt: skip
            fresh = link.with_name(f".latest.{os.getpid()}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.path.name)
            os.replace(fresh, link)
        return link


def _run_key(plan_sha256: str, code_sha256: str, input_sha256: Mapping[str, str]) -> str:
    return sha256_json({"plan": plan_sha256, "code": code_sha256, "inputs": dict(input_sha256)})


def _new_folder(runs_dir: Path, stem: str) -> Path:
    for name in (stem, *(f"{stem}-{i}" for i in range(2, 100))):
        with contextlib.suppress(FileExistsError):
            (runs_dir / name).mkdir()
            return runs_dir / name
    raise PocError(f"100 runs started within the second of {stem}", where=str(runs_dir), todo="wait a second")


def _now() -> datetime:
    return datetime.now().astimezone()
