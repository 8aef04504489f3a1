"""`make bench`: time the stages of the sample PoC from nothing, then a second run that takes everything as it is.

    make bench                                   the sample
    make bench ARGS="--config my/poc.yaml"       another PoC
    make bench ARGS="--keep"                     leave the runs folder behind and tell where

A JSON file goes to `tests/benchmarks/history/`, and the same document, in one line, to the end of stdout. Nothing
is judged here: a time says something only beside another one from the same machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.record import file_name, record

ROOT = Path(__file__).resolve().parents[2]
HISTORY = Path(__file__).with_name("history")


def run_once(config: Path, runs: Path) -> float:
    """Run the PoC in a process of its own and return its wall time in seconds.

    Raises:
        SystemExit: The run failed; its own message stands above.
    """
    command = [sys.executable, "-m", "flows", "run", "-c", str(config), "--runs-dir", str(runs)]
    started = time.perf_counter()
    # progress goes to stderr anyway; stdout stays for the one document
    done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return time.perf_counter() - started


def is_dirty() -> bool | None:
    """Tell whether the checkout differs from its commit; None where there is no git."""
    try:
        done = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return bool(done.stdout.strip()) if done.returncode == 0 else None


def cpu_name() -> str:
    """Return the model name of the processor."""
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def measure(config: Path, runs: Path) -> dict[str, Any]:
    """Run twice and return the document of the history."""
    first_run_s = run_once(config, runs)
    # of the largest process waited for so far: the run itself, not Prefect's small server beside it
    peak_rss_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    result = json.loads((runs / "latest" / "result.json").read_text("utf-8"))
    second_run_s = run_once(config, runs)
    return record(
        result, first_run_s=first_run_s, second_run_s=second_run_s, peak_rss_gib=peak_rss_gib, cpu=cpu_name(),
        is_dirty=is_dirty(),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the history file and print its document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Time the stages of a PoC.")
    parser.add_argument("--config", type=Path, default=ROOT / "flows" / "sample" / "poc.yaml", help="settings file")
    parser.add_argument("--keep", action="store_true", help="leave the runs folder behind")
    parser.add_argument("--history", type=Path, default=HISTORY, help="folder of the JSON files")
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="skip-poc-bench-"))
    try:
        document = measure(arguments.config.resolve(), folder / "runs")
    finally:
        if arguments.keep:
            sys.stderr.write(f"runs folder: {folder / 'runs'}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    arguments.history.mkdir(parents=True, exist_ok=True)
    path = arguments.history / file_name(document)
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", "utf-8")
    sys.stderr.write(f"history: {path}\n")
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
