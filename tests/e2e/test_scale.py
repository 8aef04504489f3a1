"""The sweep on threads, processes, Dask and Ray: the rows of the sequential run, bit for bit."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from prefect import flow

from flows import runtime, scale, stages
from flows.errors import PocError
from flows.progress import Progress
from flows.settings import load_settings
from flows.settings_ops import ScaleSettings
from flows.store import Store
from flows.workbench import Workbench
from tests.e2e.conftest import Finished, TinyPoc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUNNERS = {"threads": None, "processes": None, "dask": "prefect_dask", "ray": "prefect_ray"}
LATER = ("sweep-*", "confirm-*", "insight-*", "measure-*")


def _bench(poc: TinyPoc, runs: Path, runner: str) -> Workbench:
    settings_path = poc.plan(f"scale-{runner}.yaml", scale={"runner": runner, "workers": 2})
    bench = Workbench(load_settings(settings_path), settings_path, Store(runs / "store"), Progress(quiet=True))
    for stage in stages.ALL:
        stage(bench)
    return bench


def _sweep(bench: Workbench) -> Path:
    @flow(name="sweep-test")
    def run() -> str:
        return str(scale.sweep(bench).path)

    with runtime.quiet_engine():
        return Path(run())


def _points(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.json")) if path.name != "stage.json"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning",
                            "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # fmt: skip
@pytest.mark.parametrize("runner", RUNNERS)
def test_every_runner_gives_the_sequential_rows(
    finished: Finished, tmp_path: Path, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, each with its share of the points; the files are those of the sequential sweep."""
    package = RUNNERS[runner]
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'skiplayer-poc[scale]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    runs = tmp_path / "runs"
    shutil.copytree(finished.runs / "store", runs / "store", ignore=shutil.ignore_patterns(*LATER))
    (sequential,) = (finished.runs / "store").glob("sweep-*[0-9a-f]")
    computed: list[str] = []
    bench = _bench(finished.poc, runs, runner)

    shared = _sweep(bench)

    assert shared.name == sequential.name
    assert _points(shared) == _points(sequential)
    assert list(shared.glob(".share-*")) == computed == []
    assert not bench.stages["sweep"].reused


def test_points_that_were_measured_are_not_measured_again(finished: Finished, tmp_path: Path) -> None:
    """After a kill the workers share what is missing; what is there keeps its time of change."""
    runs = tmp_path / "runs"
    shutil.copytree(finished.runs / "store", runs / "store", ignore=shutil.ignore_patterns(*LATER))
    (sequential,) = (finished.runs / "store").glob("sweep-*[0-9a-f]")
    partial = runs / "store" / f"{sequential.name}.partial"
    partial.mkdir()
    (partial / ".share-1-0").mkdir()
    for name in ("thresholds.json", "point-00.json", "point-02.json"):
        shutil.copy(sequential / name, partial / name)
    before = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.json")}

    shared = _sweep(_bench(finished.poc, runs, "threads"))

    assert _points(shared) == _points(sequential)
    assert {name: (shared / name).stat().st_mtime_ns for name in before} == before


def test_a_worker_with_other_settings_refuses(finished: Finished, tmp_path: Path) -> None:
    """A key that does not match is told instead of mixed in."""
    settings_path = finished.poc.plan("scale-other.yaml")
    with pytest.raises(PocError, match="other code, settings or inputs"):
        scale.measure_share(str(settings_path), "quick", str(finished.runs / "store"), str(tmp_path), "0" * 16, [1], 4)
    assert list(tmp_path.glob("point-*")) == []


def test_a_missing_runner_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the message names it."""
    monkeypatch.setitem(__import__("sys").modules, "prefect_dask", None)

    with pytest.raises(PocError, match="task runner dask is not installed") as caught:
        scale.make_runner(ScaleSettings(runner="dask"))
    assert "skiplayer-poc[scale]" in caught.value.todo
