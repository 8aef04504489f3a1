"""The commands that keep a runs folder in order: runs, gc, deliver, doctor."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from flows import runtime
from flows.errors import EXIT_CODE


def _runs(arguments: argparse.Namespace) -> int:
    from flows.runs_command import find_runs, table

    say(table(find_runs(arguments.runs_dir)))
    return 0


def _gc(arguments: argparse.Namespace) -> int:
    from flows.runs_command import find_garbage, remove

    garbage = find_garbage(arguments.runs_dir, arguments.older_than)
    size = f"{garbage.n_bytes / 1e6:.1f} MB in {len(garbage.runs)} runs and {len(garbage.stages)} stages"
    if arguments.delete:
        remove(arguments.runs_dir, garbage, say)
        say(f"freed {size}")
        return 0
    for path in garbage.paths:
        say(f"would remove {path.relative_to(arguments.runs_dir.resolve())}")
    say(f"a dry run: {size}; --delete removes them")
    return 0


def _deliver(arguments: argparse.Namespace) -> int:
    runtime.prepare(arguments.runs_dir)
    from flows.spool import deliver_all

    left = sum(deliver_all(arguments.runs_dir, say).values())
    say(f"{left} records wait" if left else "nothing waits")
    return EXIT_CODE if left else 0


def _doctor(arguments: argparse.Namespace) -> int:
    from flows.doctor import as_json, examine

    findings = examine(arguments.runs_dir)
    say(as_json(findings) if arguments.json else "\n".join(str(finding) for finding in findings))
    return EXIT_CODE if any(finding.state == "error" for finding in findings) else 0


def add_housekeeping(commands: Any, add: Callable[..., Any], add_runs_dir: Callable[[Any], None]) -> None:
    """Add these commands to the parser.

    Args:
        commands: The sub-parsers.
        add: Adds one of them, with its function and its sentence of help.
        add_runs_dir: Adds --runs-dir.
    """
    runs = add(commands, "runs", _runs, "list the runs of a folder: when, which plan, how far, verdict")
    gc = add(commands, "gc", _gc, "remove old runs, and stages no kept run rests on; without --delete only say which")
    gc.add_argument("--older-than", type=float, default=30.0, help="days since the last change; default: 30")
    gc.add_argument("--delete", action="store_true", help="really remove them")
    deliver = add(commands, "deliver", _deliver, "send MLflow what waits since its server was away")
    doctor = add(commands, "doctor", _doctor, "look whether this machine can run a PoC, and say what to fix")
    doctor.add_argument("--json", action="store_true", help="for a machine to read")
    for sub in (runs, gc, deliver, doctor):
        add_runs_dir(sub)


def say(text: str) -> None:
    """Print one line of result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
