"""The month on real services: Prefect server, process worker, every deployment run on schedule to its end."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import RRuleSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.month_record import Month
from tests.e2e.conftest import ROOT, Finished, read_result
from tests.services import free_port, prefect_server, process, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

WEEKS = ("register-plan", "tune-and-sweep", "data-audit", "tune-and-sweep", "speed-and-cost", "confirm-and-report",
         "weekly-status", "poc")  # fmt: skip
"""In the order of the schedule; the second comes too early on purpose."""
RUN_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Played:
    """A month that was played through."""

    runs: Path
    flow_runs: list[FlowRun]
    artifacts: dict[str, list[str]]
    """Keys of the artifacts by name of the flow run's deployment, in the order of WEEKS."""
    schedules: dict[str, Any]


def _command(*arguments: str, env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-m", "prefect", *arguments], env={**os.environ, **env}, cwd=cwd,
                          capture_output=True, text=True, check=False, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str], SyncPrefectClient]]:
    """A server, a process pool, all deployments of prefect.yaml, a worker, and a client."""
    folder = tmp_path_factory.mktemp("services")
    with prefect_server(folder, free_port()) as api:
        env = {"PREFECT_API_URL": api, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "client")}
        (folder / "client").mkdir()
        _command("work-pool", "create", "--type", "process", "poc-pool", env=env, cwd=folder)
        _command("--no-prompt", "deploy", "--all", "--prefect-file", str(ROOT / "prefect.yaml"), env=env, cwd=folder)
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "poc-pool", "--limit", "1"]
        speed = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_PREFETCH_SECONDS": "1"}
        with (
            process(worker, folder / "worker.log", env=env | speed, cwd=folder),
            temporary_settings(updates={PREFECT_API_URL: api}),
            get_client(sync_client=True) as client,
        ):
            yield folder, env, client


@pytest.fixture(scope="module")
def played(
    services: tuple[Path, dict[str, str], SyncPrefectClient],
    finished: Finished,
    tmp_path_factory: pytest.TempPathFactory,
) -> Played:
    """Every deployment, each by a schedule of its own: a month in which a week takes a moment."""
    _, _, client = services
    runs = tmp_path_factory.mktemp("month") / "runs"
    shutil.copytree(finished.runs / "store", runs / "store", ignore=shutil.ignore_patterns("confirm-*"))
    stops = {"stop_without_enough_items": False, "stop_when_speed_is_refuted": False}
    plan = finished.poc.plan("month.yaml", month=stops)
    values: dict[str, Any] = {"config_path": str(plan), "runs_dir": str(runs), "profile": None}
    flow_runs, artifacts = [], {}
    for name in WEEKS:
        parameters = values if name == "poc" else {"parameters": values | {"month": "m1"}}
        flow_run = _on_schedule(client, name, parameters)
        flow_runs.append(flow_run)
        found = client.request("POST", "/artifacts/filter", json={
            "artifacts": {"flow_run_id": {"any_": [str(flow_run.id)]}}}).json()  # fmt: skip
        artifacts.setdefault(name, []).extend(artifact["key"] for artifact in found)
    deployments = {name: client.read_deployment_by_name(f"{name}/{name}") for name in dict.fromkeys(WEEKS)}
    return Played(runs, flow_runs, artifacts, {name: found.schedules for name, found in deployments.items()})


def _on_schedule(client: SyncPrefectClient, name: str, parameters: dict[str, Any]) -> FlowRun:
    """Let the server's scheduler start a deployment once, in a second, and wait until its run has ended."""
    deployment = client.read_deployment_by_name(f"{name}/{name}")
    before = {run.id for run in _runs_of(client, deployment.id)}
    fresh: list[FlowRun] = []

    def started() -> bool:
        fresh[:] = [run for run in _runs_of(client, deployment.id) if run.id not in before]
        return bool(fresh)

    for _ in range(
        10
    ):  # a moment that has passed when the scheduler looks is left out; a busy machine may need another
        start = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=5)
        once = RRuleSchedule(rrule=f"DTSTART:{start:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=WEEKLY;COUNT=1", timezone="UTC")
        created = DeploymentScheduleCreate(schedule=once, active=True, parameters=parameters)
        client.request("POST", f"/deployments/{deployment.id}/schedules", json=[created.model_dump(mode="json")])
        with contextlib.suppress(AssertionError):
            wait_until(started, f"{name} was never scheduled", 30)
            break
    assert fresh, f"{name} was never scheduled"

    def ended() -> bool:
        fresh[0] = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[fresh[0].id])))[0]
        return fresh[0].state is not None and fresh[0].state.is_final()

    wait_until(ended, f"{name} did not end", RUN_TIMEOUT_S, every_s=1.0)
    return fresh[0]


def _runs_of(client: SyncPrefectClient, deployment_id: UUID) -> list[FlowRun]:
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
    # the standing schedule of weekly-status has plans of its own, days ahead
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
    found = client.read_flow_runs(flow_run_filter=wanted)
    return [run for run in found if run.expected_start_time is None or run.expected_start_time < soon]


def test_every_deployment_runs_to_its_end(played: Played) -> None:
    """Each week completes through the API; the one that came too early says what comes first, and computes nothing."""
    states = [(name, run.state_name) for name, run in zip(WEEKS, played.flow_runs, strict=True)]

    assert states == [(name, "NotYet" if index == 1 else "Completed") for index, name in enumerate(WEEKS)]
    assert "data-audit comes first" in str(played.flow_runs[1].state.message)


def test_each_week_records_its_gate(played: Played) -> None:
    """The month knows its plan, four gates, one opening, and tells it in one line."""
    month = Month.named(played.runs, "m1")
    gates = {week: month.gate(week) for week in ("W1", "W2", "W3", "W4")}
    line = month.status(datetime.date.today())

    assert [gate.state for gate in gates.values() if gate is not None and gate.stops] == []
    assert gates["W2"] is not None
    assert gates["W2"].code == "threshold_chosen"
    assert (month.folder / "plan.json").stat().st_mode & 0o777 == 0o400
    assert "test split opened once" in line
    assert line[11:] in (month.folder / "status.md").read_text("utf-8")


def test_the_weeks_are_one_run_and_the_whole_poc_computes_nothing_again(played: Played) -> None:
    """One run folder; the result of `poc` after the weeks rests on their stages, all of them kept."""
    (folder,) = played.runs.glob("[0-9]*-*")
    weeks = [Month.named(played.runs, "m1").week(week) for week in ("W1", "W2", "W3", "W4")]
    result = read_result(folder)
    keys = {stage["name"]: stage["key"] for stage in result["stages"]}

    assert {week["run"] for week in weeks if week is not None} == {folder.name}
    assert weeks[3] is not None
    assert keys.items() <= {**weeks[0]["stages"], **weeks[3]["stages"]}.items()
    assert result["data"]["test_openings"] == 1
    assert len(list((played.runs / "store").glob("confirm-*"))) == 1
    assert '"event": "note"' in (folder / "log.jsonl").read_text("utf-8")


def test_every_flow_run_leaves_artifacts(played: Played) -> None:
    """Tables, text, progress, and a link to the report."""
    assert {"registered-plan", "status-m1", "progress"} <= set(played.artifacts["register-plan"])
    assert {"sweep", "status-m1", "progress"} <= set(played.artifacts["tune-and-sweep"])
    assert "speed" in played.artifacts["speed-and-cost"]
    assert {"poc-report", "poc-gates", "poc-report-link"} <= set(played.artifacts["confirm-and-report"])
    assert {"poc-report", "poc-gates", "poc-report-link", "progress"} <= set(played.artifacts["poc"])
    assert "status-m1" in played.artifacts["weekly-status"]


def test_weeks_are_runs_below_the_month_in_mlflow(played: Played) -> None:
    """Parent run, week runs, stages, points: three levels, none of them doubled by the eight flow runs."""
    client = MlflowClient(tracking_uri=f"sqlite:///{played.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("skiplayer-poc: Tiny PoC")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id], max_results=200)}
    (parent,) = [run for run in found.values() if run.data.tags.get("kind") == "poc"]
    weeks = {name: run for name, run in found.items() if run.data.tags.get("kind") == "week"}

    def parent_of(name: str) -> str:
        return str(found[name].data.tags["mlflow.parentRunId"])

    assert len(found) == len(client.search_runs([experiment.experiment_id], max_results=200))
    assert sorted(name[:2] for name in weeks) == ["W1", "W2", "W3", "W4"]
    assert {parent_of(name) for name in weeks} == {parent.info.run_id}
    assert parent_of("baseline") == weeks["W1 data audit"].info.run_id
    assert parent_of("sweep point 1") == found["sweep"].info.run_id
    assert parent.data.tags["W2"] == "pass: threshold_chosen"
    assert parent.data.tags["month"] == "m1"


def test_the_committed_schedules_are_in_tokyo_time(played: Played) -> None:
    """weekly-status runs every Monday; the weeks have their Mondays, switched off until the plan is registered."""
    committed = {row["name"]: row for row in yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]}
    crons = {name: next(s for s in schedules if hasattr(s.schedule, "cron")) for name, schedules in
             played.schedules.items() if name != "register-plan"}  # fmt: skip

    assert crons["weekly-status"].active
    assert [name for name, found in crons.items() if found.active] == ["weekly-status"]
    assert {found.schedule.timezone for found in crons.values()} == {"Asia/Tokyo"}
    assert not crons["data-audit"].schedule.day_or
    assert crons["data-audit"].schedule.cron == committed["data-audit"]["schedules"][0]["cron"]


def test_bad_parameters_are_refused_before_anything_runs(
    services: tuple[Path, dict[str, str], SyncPrefectClient], tmp_path: Path
) -> None:
    """The pydantic model of the form is the server's schema: a name that climbs out of the folder is no month."""
    _, env, client = services
    schema = client.read_deployment_by_name("data-audit/data-audit").parameter_openapi_schema
    definition = schema["definitions"]["MonthParameters"]

    assert set(definition["properties"]) == {"config_path", "profile", "runs_dir", "month"}
    assert all(field.get("description") for field in definition["properties"].values())
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "data-audit/data-audit", "--params",
         '{"parameters": {"month": "../outside"}}'],
        env={**os.environ, **env}, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert "month" in done.stdout + done.stderr
