"""The month as flows: one per week, each a visit to the same run, and a weekly line of status.

    register_plan       W0  plan and inputs hashed and locked
    data_audit          W1  ingest, dense model, baseline, noise floor; enough items?
    tune_and_sweep      W2  SkipLayer model, sweep; does a threshold pass?
    speed_and_cost      W3  who skips what, timing; can the registered speed-up still be reached?
    confirm_and_report  W4  the one opening of the test split, verdict, report

All stages are those of the flow `poc`, in the same store: run after the weeks, it computes nothing again. A week that
comes too early, or after the month has stopped, ends at once in a state that says so, and computes nothing.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field

from flows import evaluation, judge, logbook, month_gates, openings, poc, scale, session, stages
from flows.baseline import baseline
from flows.month_record import FLOW_OF, WEEKS, Gate, Month
from flows.progress import Progress
from flows.session import Session
from flows.settings import Profile, flatten, load_settings, plan_sha256
from flows.store import Store, read_json
from flows.workbench import Workbench

_AUDIT = (*stages.ALL[:3], baseline)
_TUNE = (*stages.ALL, scale.sweep)


class MonthParameters(BaseModel):
    """What every flow of the month is told; Prefect's page shows a form of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config_path: Annotated[str, Field(min_length=1, description="Settings file, the registered plan")] = "poc.yaml"
    profile: Annotated[Profile | None, Field(description="Budget, only where the plan leaves it open")] = None
    runs_dir: Annotated[str, Field(min_length=1, description="Folder of all runs and months")] = "runs"
    month: Annotated[
        str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="Name of the month: lower case, digits, dashes")
    ] = "month"


DEFAULT = MonthParameters()


@flow(name="register-plan", validate_parameters=True)
def register_plan(parameters: MonthParameters = DEFAULT) -> State[Any]:
    """W0: hash plan and inputs, and lock them; every later week refuses another plan."""
    month, plan = _month(parameters), _plan(parameters)
    with session.opened(parameters.config_path, parameters.profile, parameters.runs_dir, None, 1,
                        {"month": parameters.month}) as opened:  # fmt: skip
        is_new = month.register(plan)
        session.step(opened, "lock", lambda: month.plan)
        opened.spool.log_parent(tags={"W0": f"plan {plan['plan_sha256'][:8]} locked"})
        opened.spool.finish()
    create_table_artifact([{"setting": name, "value": str(value)} for name, value in plan["settings"].items()],
                          key="registered-plan")  # fmt: skip
    text = f"plan {plan['plan_sha256'][:16]} {'locked' if is_new else 'was locked already'}"
    create_markdown_artifact(f"{text}\n\nmonth: {month.name}", key=f"status-{month.name}")
    return Completed(message=text)


@flow(name="data-audit", validate_parameters=True)
def data_audit(parameters: MonthParameters = DEFAULT) -> State[Any]:
    """W1: read the documents, tune and score the dense model, count what the test will ask."""

    def work(opened: Session) -> Gate:
        poc.run_stages(opened, _AUDIT)
        settings = opened.bench.settings
        return month_gates.enough_items(len(opened.bench.items("test")), settings.gates,
                                        stops=settings.month.stop_without_enough_items)  # fmt: skip

    return _week("W1", parameters, work, len(_AUDIT))


@flow(name="tune-and-sweep", validate_parameters=True)
def tune_and_sweep(parameters: MonthParameters = DEFAULT) -> State[Any]:
    """W2: fine-tune the SkipLayer model, measure every threshold on validation."""

    def work(opened: Session) -> Gate:
        rows, choice, _ = poc.tune(opened, _TUNE)
        names = ("index", "threshold", "skip_rate", "ppl_rise", "agreement", "passes")
        create_table_artifact([{name: row[name] for name in names} for row in rows], key="sweep")
        return month_gates.threshold_found(choice, stops=opened.bench.settings.month.stop_without_threshold)

    return _week("W2", parameters, work, len(_TUNE))


@flow(name="speed-and-cost", validate_parameters=True)
def speed_and_cost(parameters: MonthParameters = DEFAULT) -> State[Any]:
    """W3: look at the routing, time the chosen point on this machine."""

    def work(opened: Session) -> Gate:
        _, _, point = poc.tune(opened, _TUNE)
        poc.measure(opened, point)
        rows, _ = judge.speed_rows(opened.bench)
        names = ("phase", "routing", "skip_rate", "estimated_ceiling", "measured_speedup", "low", "high")
        create_table_artifact([{name: row[name] for name in names} for row in rows], key="speed")
        settings = opened.bench.settings
        return month_gates.speed_not_refuted(next(row for row in rows if row["is_headline"]), settings.gates,
                                             stops=settings.month.stop_when_speed_is_refuted)  # fmt: skip

    return _week("W3", parameters, work, len(_TUNE) + 2)


@flow(name="confirm-and-report", validate_parameters=True)
def confirm_and_report(parameters: MonthParameters = DEFAULT) -> State[Any]:
    """W4: open the test split, once; decide; write the report. After a stop in week 2 it stays closed."""
    month = _month(parameters)

    def work(opened: Session) -> Gate:
        chosen = poc.tune(opened, _TUNE)

        def before_opening(opened: Session, point: dict[str, Any]) -> None:
            month.open_test(*_opening(opened.bench, point))

        return month_gates.verdict(poc.finish(opened, *chosen, before_opening=before_opening))

    return _week("W4", parameters, work, poc.N_STAGES)


@flow(name="weekly-status", validate_parameters=True)
def weekly_status(parameters: MonthParameters = DEFAULT) -> State[Any]:
    """Say in one line per month where it stands, and add the line to its history."""
    today = datetime.datetime.now().astimezone().date()
    lines = []
    for month in Month.all(Path(parameters.runs_dir)):
        lines.append(month.status(today))
        month.note_status(lines[-1])
        create_markdown_artifact((month.folder / "status.md").read_text("utf-8"), key=f"status-{month.name}")
    if not lines:
        lines = ["no month is registered"]
    return Completed(message=" | ".join(lines)[:2000])


def _week(week: str, parameters: MonthParameters, work: Any, n_steps: int) -> State[Any]:
    """Do one week's work, if it is its turn, and record its gate."""
    month = _month(parameters)
    not_now = _not_now(month, week)
    if not_now is not None:
        create_markdown_artifact(not_now.message or "", key=f"status-{month.name}")
        return not_now
    month.compare(_plan(parameters))
    with session.opened(parameters.config_path, parameters.profile, parameters.runs_dir, None, n_steps,
                        {"month": parameters.month}) as opened:  # fmt: skip
        gate: Gate = work(opened)
        bench = opened.bench
        month.record(week, gate, run=bench.run.id, code_sha256=opened.code_sha256,
                     stages={name: stage.key for name, stage in bench.stages.items()},
                     seconds=sum(stage.seconds for stage in bench.stages.values() if not stage.reused))  # fmt: skip
        opened.spool.log_group(logbook.WEEKS[week], metrics={"gate_value": gate.value},
                               tags={"gate": gate.state, "gate_code": gate.code, "gate_text": gate.text})  # fmt: skip
        opened.spool.log_parent(tags={week: f"{gate.state}: {gate.code}"})
        opened.spool.finish()
    create_markdown_artifact(f"# {week}: {gate.state}\n\n{gate.text}\n", key=f"status-{month.name}")
    return Completed(name="Stopped" if gate.stops else "Completed", message=f"{week} {gate.state}: {gate.text}")


def _not_now(month: Month, week: str) -> State[Any] | None:
    """Return the state of a week that has nothing to do: too early, or after a stop."""
    _ = month.plan
    stopped = month.stopped()
    if stopped is not None and stopped[0] < week:
        # a month without a threshold still ends in a page that says so; without items there is no model to report on
        if not (week == "W4" and stopped[0] == "W2"):
            return Completed(name="Stopped", message=f"{stopped[0]} stopped the month: {stopped[1].text}")
        return None
    before = WEEKS[: WEEKS.index(week)]
    open_weeks = [name for name in before if month.week(name) is None]
    if open_weeks:
        return Completed(name="NotYet", message=f"{FLOW_OF[open_weeks[0]]} comes first")
    return None


def _month(parameters: MonthParameters) -> Month:
    return Month.named(Path(parameters.runs_dir), parameters.month)


def _plan(parameters: MonthParameters) -> dict[str, Any]:
    """Return what is registered: hashes of plan and inputs, every setting, the code's hash as a note."""
    path = Path(parameters.config_path)
    settings = load_settings(path, parameters.profile)
    bench = Workbench(settings, path, Store(Path(parameters.runs_dir) / "store"), Progress(quiet=True))
    identity = bench.identity()
    return {
        "month": parameters.month, "plan_sha256": plan_sha256(settings), "settings": flatten(settings),
        "input_sha256": identity["input_sha256"], "code_sha256": identity["code_sha256"],
        "registered_at": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }  # fmt: skip


def _opening(bench: Workbench, point: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what makes the coming confirmation, and which others have read the same split."""
    confirm = evaluation.confirm_inputs(bench, point)
    ingest = read_json(bench.folder("ingest") / "stage.json")["inputs"]
    root = bench.store.root
    earlier = openings.openings_of(root, ingest, bench.input_hashes()["questions"])
    return confirm, [key for key in earlier if not _is_same(root / f"confirm-{key}" / "stage.json", confirm)]


def _is_same(record: Path, confirm: dict[str, Any]) -> bool:
    inputs = read_json(record)["inputs"] if record.is_file() else {}
    return all(inputs.get(name) == value for name, value in confirm.items())
