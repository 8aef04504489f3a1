"""`skip-poc decide`: the verdict of a finished run, computed again from its stored records, without a model.

The stored result stands and is never written over. What differs from it is told with its cause, and every
departure from the registered plan is printed as a deviation.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows import judge
from flows.confirmed import load_test_path
from flows.difference import Difference, differences
from flows.errors import PocError
from flows.explain import explain
from flows.progress import Progress
from flows.settings import Settings, flatten, load_settings, price_path
from flows.store import RunFolder, StageResult, Store, read_json, sha256_code, sha256_file, sha256_json
from flows.workbench import ROOMS, Workbench
from kpis.rivals import better_choice
from reports.result import validate

APPLIED = ("gates.", "cost.")
"""Settings that only arithmetic reads. Any other deviation needs a new run to have an effect."""
NOT_PLANNED = ("tracking.", "report.")
PRICES = "prices file"
LOAD_TEST = "load test file"
"""Names under which changed files are told; their content is no setting."""


@dataclass(frozen=True)
class Deviation:
    """One departure from the registered plan."""

    setting: str
    registered: Any
    now: Any
    is_applied: bool
    """False: told, but without effect on the figures until a new run."""

    def __str__(self) -> str:
        """As it is printed and kept in `plan.deviations`."""
        effect = "" if self.is_applied else " (needs a new run, not applied)"
        return f"{self.setting}: {json.dumps(self.registered)} registered, {json.dumps(self.now)} now{effect}"


@dataclass(frozen=True)
class Decision:
    """A verdict computed again, beside the stored one."""

    run_id: str
    stored: dict[str, Any]
    result: dict[str, Any]
    """The recomputed result.json."""
    deviations: tuple[Deviation, ...]
    differences: tuple[Difference, ...]
    causes: tuple[str, ...]
    """Codes of `kpis.codes.DIFFERENCE_CAUSES`; empty when every figure is the same."""
    choice_conflict: bool
    """The limits would choose another setting than the one that was confirmed; the confirmed one is judged."""
    seconds: float

    @property
    def rivals(self) -> list[dict[str, Any]]:
        """Whether something simpler is better, computed again."""
        rows: list[dict[str, Any]] = self.result["rivals"]
        return rows

    @property
    def economics(self) -> dict[str, Any]:
        """What a controller asks, computed again."""
        figures: dict[str, Any] = self.result["economics"]
        return figures

    @property
    def is_same(self) -> bool:
        """Whether every figure and the verdict were reproduced under the registered plan."""
        return not (self.differences or self.deviations or self.causes or self.choice_conflict)

    def to_json(self) -> dict[str, Any]:
        """The content of decision.json."""
        verdicts = {"stored": self.stored["verdict"], "recomputed": self.result["verdict"]}
        return {
            "schema_version": 1, "run_id": self.run_id, "is_same": self.is_same, "verdict": verdicts,
            "better_choice": better_choice(self.result["verdict"]["code"], self.rivals), "rivals": self.rivals,
            "deviations": [dataclasses.asdict(deviation) for deviation in self.deviations],
            "causes": list(self.causes), "choice_conflict": self.choice_conflict,
            "differences": [dataclasses.asdict(difference) for difference in self.differences],
            "economics": self.economics,
        }  # fmt: skip


def decide(
    run_dir: Path, settings_path: Path | None = None, *, prices: Path | None = None, on: datetime.date | None = None
) -> Decision:
    """Compute gates, cost and verdict of a finished run again.

    Args:
        run_dir: Run folder with result.json; the stages lie in `store/` beside it.
        settings_path: A settings file to decide by; None takes the registered plan.
        prices: A price file to decide by; None takes the one of the settings.
        on: Day on which the age of prices is judged; None takes the day of the run.

    Raises:
        PocError: The result or a record is missing, or the stored plan cannot be read by this version.
    """
    started = time.perf_counter()
    stored = read_json(run_dir / "result.json")
    validate(stored)
    registered, is_edited = registered_plan(stored, run_dir)
    wanted: Settings = registered
    deviations: tuple[Deviation, ...] = ()
    if settings_path is not None:
        wanted, deviations = _deviating(registered, load_settings(settings_path, stored["run"]["profile"]))
    if prices is not None:
        cost = wanted.cost.model_copy(update={"prices": str(prices.resolve())})
        wanted = wanted.model_copy(update={"cost": cost})
    bench = open_bench(run_dir, stored, wanted, settings_path or run_dir / "poc.yaml", on)
    price_file = _existing(price_path(wanted, bench.settings_path))
    sha256 = sha256_file(price_file)
    load_test = load_test_path(bench)
    hashes = {"prices": sha256, "load_test": None if load_test is None else sha256_file(load_test)}
    for name, title in (("prices", PRICES), ("load_test", LOAD_TEST)):
        before, now = stored["hashes"].get(name), hashes[name]
        if before != now:
            deviations += (Deviation(title, _short(before), _short(now), is_applied=True),)

    rows = judge.sweep_rows(bench)
    choice, conflict = _choice(bench, rows, stored)
    judged = judge.judge(bench, choice, functional_check=stored["run"]["functional_check"])
    result = copy.deepcopy(stored) | {"sweep": rows, "choice": choice, **judged.parts}
    result["data"]["test_openings"] = judged.test_openings
    result["hashes"] |= hashes
    found = tuple(differences(_compared(stored), _compared(result)))
    result["plan"] = {
        "registered": stored["plan"]["registered"],
        "deviations": [*stored["plan"]["deviations"], *map(str, deviations)],
    }
    validate(result)
    return Decision(
        run_id=stored["run"]["id"], stored=stored, result=result, deviations=deviations, differences=found,
        causes=_causes(stored, bench, deviations, found, is_edited=is_edited), choice_conflict=conflict,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def registered_plan(stored: Mapping[str, Any], run_dir: Path) -> tuple[Settings, bool]:
    """Return the settings that a run registered, and whether they no longer have the registered hash.

    Raises:
        PocError: This version does not know a setting of the stored plan.
    """
    flat: dict[str, Any] = stored["plan"]["registered"]
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, key = name.split(".")
        node = nested
        for group in groups:
            node = node.setdefault(group, {})
        node[key] = value
    try:
        settings = Settings.model_validate_json(json.dumps(nested))
    except ValidationError as error:
        raise explain(error, Settings, run_dir / "result.json") from error
    record = run_dir / "run.json"
    sha256 = read_json(record)["plan_sha256"] if record.is_file() else stored["run"]["plan_sha256"]
    dumped = settings.model_dump(mode="json", exclude={"tracking", "report"})
    return settings, sha256_json(_only(dumped, flat, "")) != sha256


def _only(values: Mapping[str, Any], flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Leave out settings and whole groups that the plan did not know yet; groups that are empty anyway stay."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            inside = _only(value, flat, f"{name}.")
            if inside or not value:
                kept[key] = inside
        elif name in flat:
            kept[key] = value
    return kept


def _deviating(registered: Settings, wanted: Settings) -> tuple[Settings, tuple[Deviation, ...]]:
    """Return the settings to decide by and what departs from the plan; only arithmetic settings are taken over."""
    before, now = flatten(registered), flatten(wanted)
    names = [name for name in sorted({*before, *now}) if not name.startswith(NOT_PLANNED)]
    deviations = tuple(
        Deviation(name, before.get(name), now.get(name), name.startswith(APPLIED))
        for name in names if before.get(name) != now.get(name)
    )  # fmt: skip
    return registered.model_copy(update={"gates": wanted.gates, "cost": wanted.cost}), deviations


def open_bench(
    run_dir: Path, stored: Mapping[str, Any], settings: Settings, settings_path: Path, on: datetime.date | None
) -> Workbench:
    """Return a workbench on the stages that a result names; nothing is looked up by code, nothing is computed.

    Raises:
        PocError: A stage folder is gone.
    """
    store = Store(run_dir.resolve().parent / "store")
    stages = {}
    for row in stored["stages"]:
        folder = store.root / f"{row['name']}-{row['key']}"
        if not folder.is_dir():
            raise PocError(f"the records of stage {row['name']} are missing", where=str(folder),
                           todo="keep the store folder beside the runs, or run the PoC again")  # fmt: skip
        seconds = float(read_json(folder / "stage.json")["seconds"])
        stages[row["name"]] = StageResult(row["name"], row["key"], folder, seconds, reused=True)
    created_at = stored["run"]["created_at"]
    created_at = created_at if on is None else on.isoformat() + created_at[10:]
    run = RunFolder(run_dir, stored["run"]["id"], created_at, reused=True)
    return Workbench(settings, settings_path, store, Progress(quiet=True), opened_run=run, stages=stages)


def _short(sha256: str | None) -> str | None:
    return None if sha256 is None else sha256[:12]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise PocError("the price file of the plan is not there", where=str(path),
                       todo="name the settings file with --config, or a price file with --prices")  # fmt: skip
    return path


def _choice(
    bench: Workbench, rows: list[dict[str, Any]], stored: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    """Return the choice to judge, and whether the limits would choose a setting that was never confirmed."""
    choice, point = judge.choose(bench, rows)
    if choice["threshold"] is None:
        return choice, False
    confirmed = bench.stages.get("confirm")
    if confirmed is not None:
        inputs = read_json(confirmed.path / "stage.json")["inputs"]
        if inputs["threshold_logit"] == point["threshold_logit"]:
            return choice, False
    index = stored["choice"]["sweep_index"]
    for row in rows:
        row["chosen"] = row["index"] == index
    return dict(stored["choice"]), True


def _compared(result: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a result that are arithmetic."""
    names = (
        "sweep", "choice", "controls", "confirmation", "detail", "rivals", "speed", "responses", "cost", "economics",
        "gates", "verdict",
    )  # fmt: skip
    # an older result has no `detail`, `rivals` and `economics`
    return {name: result.get(name) for name in names} | {"data": {"test_openings": result["data"]["test_openings"]}}


def _causes(
    stored: Mapping[str, Any],
    bench: Workbench,
    deviations: tuple[Deviation, ...],
    found: tuple[Difference, ...],
    *,
    is_edited: bool,
) -> tuple[str, ...]:
    """Why the figures differ; when nothing else has changed, the records have."""
    causes = ["plan_edited"] if is_edited else []
    if found:
        applied = {deviation.setting for deviation in deviations if deviation.is_applied}
        money = any(difference.path.startswith(("/cost", "/economics")) for difference in found)
        rules = (
            ("plan_changed", bool(applied - {PRICES, LOAD_TEST})),
            ("load_test_changed", LOAD_TEST in applied),
            ("prices_changed", money and PRICES in applied),
            ("date_changed", money and bench.run.created_at != stored["run"]["created_at"]),
            ("code_changed", sha256_code(ROOMS) != stored["run"]["code_sha256"]),
        )
        explained = [code for code, holds in rules if holds]
        causes += explained or ["records_changed"]
    return tuple(causes)
