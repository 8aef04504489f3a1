"""`skip-poc doctor`: is this machine fit to run a PoC, and what is to be done where it is not?

Looks and reports; starts nothing, leaves nothing behind. Each finding is `ok`, `warning` (the run works, something is
missing) or `error` (it will fail).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flows import runtime
from flows.servers import is_taken

NEED_FREE_GB, NEED_MEMORY_GIB = 4.0, 6.0
PORTS = {"MLflow": 5000, "Prefect": 4200}
PACKAGES = ("torch", "transformers", "prefect", "fastapi", "mlflow", "pydantic", "numpy", "safetensors")
OPTIONAL = {
    "prefect-dask": "scale.runner dask",
    "prefect-ray": "scale.runner ray",
    "sudachipy": "skip-poc terms on Japanese",
}
REMOTE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: str
    what: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.state:7}  {self.what}: {self.found}" + (f"\n         do: {self.todo}" if self.todo else "")


def examine(runs_dir: Path) -> list[Finding]:
    """Look at everything and return what was found."""
    found: list[Finding] = []
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python, _packages, _torch, _machine, lambda: _folder(runs_dir), _ports, _fonts, _environment,
        lambda: _leftovers(runs_dir),
    )  # fmt: skip
    for look in looks:
        found += look()
    return found


def as_json(findings: list[Finding]) -> str:
    """Return the findings for a machine."""
    return json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=1)


def _python() -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Finding("ok" if fits else "error", "Python", version, "" if fits else "use Python 3.11 or 3.12: make env")


def _packages() -> Iterator[Finding]:
    wanted = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires("skiplayer-poc") or ():
            match = re.match(r"([A-Za-z0-9_.-]+)([^;]*)$", line.partition(";")[0].strip())
            if match and "extra ==" not in line:
                wanted[match[1].lower()] = match[2].strip()
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("error", name, "not installed", "make env, or pip install skiplayer-poc")
            continue
        fits = _fits(version, wanted.get(name, ""))
        yield Finding("ok" if fits else "error", name, version,
                      "" if fits else f"needs {wanted[name]}: pip install '{name}{wanted[name]}'")  # fmt: skip
    for name, purpose in OPTIONAL.items():
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            yield Finding("ok", name, f"not installed; only {purpose} needs it")


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version.partition("+")[0], prereleases=True)


def _torch() -> Iterator[Finding]:
    # in a process of its own: a broken CUDA must not take the doctor with it
    code = (
        "import json, torch; torch.ones(2, 2).sum(); c = torch.cuda.is_available(); "
        "print(json.dumps([c, torch.version.cuda, torch.cuda.get_device_name() if c else '']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("error", "torch computes", last[:200], "install torch again: make env TORCH=torch==VERSION")
        return
    has_cuda, build, name = json.loads(done.stdout)
    if has_cuda:
        yield Finding("ok", "CUDA", f"{name} (build {build})")
    elif any(Path("/dev").glob("nvidia[0-9]*")) and build is None:
        yield Finding("warning", "CUDA", "a GPU is there, torch is the CPU build", "make env TORCH=torch==2.13.0")
    elif any(Path("/dev").glob("nvidia[0-9]*")):
        yield Finding(
            "warning",
            "CUDA",
            f"a GPU is there, torch (build {build}) cannot use it",
            "check the driver with nvidia-smi",
        )
    else:
        yield Finding("ok", "CUDA", "no GPU; profile quick runs on the CPU, and is never a Go")


def _machine() -> Iterator[Finding]:
    import psutil

    cores, memory = runtime.usable_cores(), psutil.virtual_memory().total / 2**30
    yield Finding("ok" if cores >= 2 else "warning", "cores", str(cores), "" if cores >= 2 else "expect twice the time")
    fits = memory >= NEED_MEMORY_GIB
    yield Finding("ok" if fits else "warning", "memory", f"{memory:.1f} GiB",
                  "" if fits else f"the sample takes {NEED_MEMORY_GIB:.0f} GiB; use a smaller base model")  # fmt: skip


def _folder(runs_dir: Path) -> Iterator[Finding]:
    parent = next(path for path in (runs_dir.resolve(), *runs_dir.resolve().parents) if path.is_dir())
    free_gb = shutil.disk_usage(parent).free / 1e9
    fits = free_gb >= NEED_FREE_GB
    yield Finding("ok" if fits else "error", "disk", f"{free_gb:.1f} GB free at {parent}",
                  "" if fits else "free some space (skip-poc gc), or name another --runs-dir")  # fmt: skip
    try:
        with tempfile.NamedTemporaryFile(dir=parent) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        yield Finding("error", "runs folder", f"cannot be written and locked ({error.strerror})",
                      "choose a local folder that you own with --runs-dir")  # fmt: skip
        return
    yield Finding("ok", "runs folder", "can be written and locked")
    if runs_dir.is_dir() and runs_dir.stat().st_mode & 0o077:
        yield Finding("warning", "runs folder", f"others may read it (mode {runs_dir.stat().st_mode & 0o777:o})",
                      f"chmod -R go-rwx {runs_dir}")  # fmt: skip


def _ports() -> Iterator[Finding]:
    for name, port in PORTS.items():
        taken = is_taken(port)
        found, todo = f"in use ({name}'s default)", f"skip-poc ui --{name.lower()}-port OTHER, unless that is {name}"
        yield Finding("warning", f"port {port}", found, todo) if taken else Finding("ok", f"port {port}", "free")


def _fonts() -> Iterator[Finding]:
    if shutil.which("fc-list") is None:
        yield Finding("ok", "fonts", "fontconfig is not there; the report takes the reader's fonts")
        return
    has = bool(subprocess.run(["fc-list", ":lang=ja"], capture_output=True, text=True, check=False).stdout.strip())
    yield Finding("ok" if has else "warning", "Japanese font", "found" if has else "none",
                  "" if has else "to print the report here: apt-get install fonts-ipaexfont-gothic")  # fmt: skip


def _environment() -> Iterator[Finding]:
    for name, path in (("PREFECT_API_URL", "/health"), ("MLFLOW_TRACKING_URI", "/health")):
        address = os.environ.get(name, "")
        if not address.startswith(("http://", "https://")):
            continue
        if "@" in address.partition("://")[2].partition("/")[0]:
            yield Finding("error", name, "holds a user or password", "give them by variables of their own")
            continue
        try:
            with urllib.request.urlopen(address.rstrip("/") + path, timeout=REMOTE_TIMEOUT_S) as answer:
                yield Finding("ok", name, f"answers ({answer.status})")
        except OSError as error:
            yield Finding("warning", name, f"does not answer ({error})", "start the server, or unset the variable")


def _leftovers(runs_dir: Path) -> Iterator[Finding]:
    partial = list((runs_dir / "store").glob("*-*.partial"))
    if partial:
        yield Finding("ok", "unfinished stages", f"{len(partial)}; the same run goes on with them")
    waiting = list(runs_dir.glob("[0-9]*-*/spool/[0-9]*.json"))
    if waiting:
        yield Finding("warning", "MLflow", f"{len(waiting)} records wait", "skip-poc deliver")
