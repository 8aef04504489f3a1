"""What is known of a month: the plan locked in week 0, and what each week found. Files in `runs/months/NAME/`.

plan.json      written once by register-plan, read-only: hashes of plan and inputs, every setting
W1.json ...    written when a week is through: its gate, its run, its time
opening.json   written before the test split is opened: which confirmation, and when
status.md      one line per status report
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.errors import PocError
from flows.store import Json, locked, read_json, write_json

WEEKS = ("W1", "W2", "W3", "W4")
FLOW_OF = {"W0": "register-plan", "W1": "data-audit", "W2": "tune-and-sweep", "W3": "speed-and-cost",
           "W4": "confirm-and-report"}  # fmt: skip
MAX_NAMED = 6
"""Changed settings that a message names."""


@dataclass(frozen=True)
class Gate:
    """What a week decides about going on."""

    state: str
    """pass, warn (the month goes on) or stop."""
    code: str
    text: str
    value: float | None = None
    limit: float | None = None

    @property
    def stops(self) -> bool:
        """Whether the month ends here."""
        return self.state == "stop"


@dataclass(frozen=True)
class Month:
    """One month, by its folder."""

    folder: Path

    @classmethod
    def named(cls, runs_dir: Path, name: str) -> Month:
        """Return the month of a name, registered or not."""
        return cls(runs_dir / "months" / name)

    @classmethod
    def all(cls, runs_dir: Path) -> list[Month]:
        """Return every registered month, by name."""
        return [cls(path.parent) for path in sorted((runs_dir / "months").glob("*/plan.json"))]

    @property
    def name(self) -> str:
        """Name of the month."""
        return self.folder.name

    @property
    def plan(self) -> dict[str, Any]:
        """What was registered.

        Raises:
            PocError: Nothing was.
        """
        path = self.folder / "plan.json"
        if not path.exists():
            raise PocError(f"no plan is registered for the month {self.name}", where=str(path),
                           todo="run register-plan first; its parameter `month` names the month")  # fmt: skip
        plan: dict[str, Any] = read_json(path)
        return plan

    def register(self, plan: Mapping[str, Json]) -> bool:
        """Lock the plan; True when this call did it, False when the same plan was registered before.

        Raises:
            PocError: Another plan is registered under this name.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock", lambda: None):
            path = self.folder / "plan.json"
            if path.exists():
                self.compare(plan)
                return False
            write_json(path, dict(plan))
            path.chmod(0o400)
        return True

    def compare(self, now: Mapping[str, Any]) -> None:
        """Hold the plan and inputs of now against those that are locked.

        Raises:
            PocError: They differ; names what.
        """
        plan = self.plan
        before, after = plan["settings"], now["settings"]
        names = [name for name in sorted({*before, *after}) if not name.startswith(("tracking.", "report."))]
        changed = [f"{name}: {before.get(name)!r} -> {after.get(name)!r}" for name in names
                   if before.get(name) != after.get(name)]  # fmt: skip
        # a load test of the served model is made while the month runs: the plan names it, its content comes later
        inputs = {*plan["input_sha256"], *now["input_sha256"]} - {"load_test"}
        changed += [f"content of {name}" for name in sorted(inputs)
                    if plan["input_sha256"].get(name) != now["input_sha256"].get(name)]  # fmt: skip
        if plan["plan_sha256"] == now["plan_sha256"] and not changed:
            return
        n_more = len(changed) - MAX_NAMED
        shown = "; ".join(changed[:MAX_NAMED]) + (f" and {n_more} more" if n_more > 0 else "")
        raise PocError(
            f"the plan of the month {self.name}, locked on {plan['registered_at'][:10]}, is another one now: {shown}",
            where=str(self.folder / "plan.json"),
            todo="restore it, or register the changed plan as a new month: register-plan with another `month`",
        )

    def record(self, week: str, gate: Gate, **facts: Json) -> None:
        """Write what a week found."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(self.folder / f"{week}.json", {"week": week, "finished_at": now, "gate": asdict(gate), **facts})

    def week(self, week: str) -> dict[str, Any] | None:
        """Return what a week found; None when it is not through."""
        path = self.folder / f"{week}.json"
        found: dict[str, Any] | None = read_json(path) if path.exists() else None
        return found

    def gate(self, week: str) -> Gate | None:
        """Return the gate of a week; None when it is not through."""
        found = self.week(week)
        return None if found is None else Gate(**found["gate"])

    def stopped(self) -> tuple[str, Gate] | None:
        """Return the week and the gate that ended the month, if one did."""
        for week in WEEKS:
            gate = self.gate(week)
            if gate is not None and gate.stops:
                return week, gate
        return None

    def open_test(self, confirm: Mapping[str, Json], earlier: list[str]) -> None:
        """Note, before it happens, that the test split is opened; the same confirmation may go on after a kill.

        Args:
            confirm: What makes this confirmation: its sweep, its threshold, its sizes.
            earlier: Keys of confirmations that have read the same split before, other than this one.

        Raises:
            PocError: The split was opened already, by this month or before it.
        """
        path = self.folder / "opening.json"
        with locked(self.folder / ".lock", lambda: None):
            if path.exists():
                before = read_json(path)
                if before["confirm"] != dict(confirm):
                    raise PocError(
                        f"the test split was opened on {before['opened_at'][:10]} for another threshold or model",
                        where=str(path), todo="a month opens it once: keep that result, or register a new month with "
                                              "documents that were never tested on",
                    )  # fmt: skip
                return
            if earlier:
                raise PocError(
                    f"the test split was opened {len(earlier)} times before this month's confirmation",
                    where=f"store: confirm-{earlier[-1]}",
                    todo="register a new month with documents that were never tested on",
                )
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            write_json(path, {"opened_at": now, "confirm": dict(confirm)})

    def status(self, today: datetime.date) -> str:
        """Return the month in one line: what is through, what each gate said, what is next and when it is due."""
        registered = datetime.date.fromisoformat(self.plan["registered_at"][:10])
        parts = [
            f"{today.isoformat()} {self.name}: plan {self.plan['plan_sha256'][:8]} locked {registered.isoformat()}"
        ]
        for week in WEEKS:
            gate = self.gate(week)
            if gate is not None:
                parts.append(f"{week} {gate.state} ({gate.text})")
                if gate.stops and week != "W4":
                    parts.append("stopped")
                    break
                continue
            due = registered + datetime.timedelta(days=7 * int(week[1]))
            late = f", {(today - due).days} days late" if today > due else ""
            parts.append(f"next {FLOW_OF[week]}, due {due.isoformat()}{late}")
            break
        opened = (self.folder / "opening.json").exists()
        return "; ".join([*parts, "test split opened once" if opened else "test split closed"])

    def note_status(self, line: str) -> None:
        """Append a line to the month's history."""
        path = self.folder / "status.md"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
            file.write(f"- {line}\n")
