"""The sweep shared among workers: threads, processes, a Dask or a Ray cluster, by `scale` of the settings.

A worker runs the very code of the sequential sweep, on a folder in which every point that is not its own is there
already; its points are moved into the stage as soon as each is measured. So the rows are the same, a kill loses
nothing that was measured, and a cluster needs nothing but the runs folder under the same path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows import evaluation, runtime, stages
from flows.errors import PocError
from flows.progress import Progress, ProgressHook
from flows.settings import Settings, load_settings
from flows.settings_ops import ScaleSettings
from flows.store import StageResult, Store
from flows.workbench import Workbench

Compute = Callable[[Path, ProgressHook], None]


class _Caught(Exception):  # noqa: N818 - not an error: carries what a stage would have computed
    def __init__(self, key: str, compute: Compute) -> None:
        super().__init__(key)
        self.key, self.compute = key, compute


class _Catching(Workbench):
    """A workbench that finds finished stages, and hands the first unfinished one out instead of computing it."""

    def do(
        self, name: str, title: str, inputs: Mapping[str, Any], code: Sequence[str], compute: Compute
    ) -> StageResult:
        if name == "sweep":
            raise _Caught(self.store.key(name, inputs, code), compute)
        return super().do(name, title, inputs, code, compute)


class _Sharing(Workbench):
    """A workbench that lets workers measure the points of the sweep before it goes through them itself."""

    def do(
        self, name: str, title: str, inputs: Mapping[str, Any], code: Sequence[str], compute: Compute
    ) -> StageResult:
        key = self.store.key(name, inputs, code)

        def shared(folder: Path, hook: ProgressHook) -> None:
            _spread(self, key, folder, hook, compute)
            compute(folder, hook)

        return super().do(name, title, inputs, code, shared)


def sweep(bench: Workbench) -> StageResult:
    """Measure the sweep with the workers that the settings ask for."""
    if bench.settings.scale.runner == "sequential" or bench.find_only:
        return evaluation.sweep(bench)
    sharing = _Sharing(**{field.name: getattr(bench, field.name) for field in dataclasses.fields(Workbench)})
    finished = evaluation.sweep(sharing)
    bench.stages[finished.name] = finished
    return finished


def make_runner(scale: ScaleSettings) -> Any:
    """Return the Prefect task runner of the settings.

    Raises:
        PocError: It needs a package that is not installed.
    """
    from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

    if scale.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=scale.workers)
    if scale.runner == "processes":
        return ProcessPoolTaskRunner(max_workers=scale.workers)
    try:
        if scale.runner == "dask":
            from prefect_dask import DaskTaskRunner

            local = {"n_workers": scale.workers, "threads_per_worker": 1, "dashboard_address": None}
            return DaskTaskRunner(address=scale.address) if scale.address else DaskTaskRunner(cluster_kwargs=local)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise PocError(
            f"the task runner {scale.runner} is not installed ({error.name})",
            where="scale.runner",
            todo="pip install 'skiplayer-poc[scale]', or choose threads or processes",
        ) from error
    options = {"num_cpus": scale.workers, "include_dashboard": False, "log_to_driver": False}
    return RayTaskRunner(address=scale.address) if scale.address else RayTaskRunner(init_kwargs=options)


def measure_share(
    settings_path: str, profile: str, store_root: str, folder: str, key: str, indices: list[int], n_points: int
) -> list[int]:
    """Measure some points of a sweep; runs in a worker and needs nothing but these values and the shared folder.

    Args:
        settings_path: The settings file.
        profile: Resolved profile of the run.
        store_root: Folder of the finished stages.
        folder: Unfinished folder of the sweep, which gets the points.
        key: Key of the sweep; a worker with other code, settings or inputs has another one and refuses.
        indices: Points to measure.
        n_points: Points of the whole sweep.

    Returns:
        The indices.
    """
    root, target = Path(store_root), Path(folder)
    runtime.prepare(root.parent)
    settings = load_settings(Path(settings_path), profile)
    bench = _Catching(settings, Path(settings_path), Store(root), Progress(quiet=True), find_only=True)
    caught = _catch(bench)
    if caught.key != key:
        raise PocError("the worker has other code, settings or inputs than the process that started the sweep",
                       where=f"key {caught.key} here, {key} there",
                       todo="install the same version on every worker and share the same folder")  # fmt: skip
    _measure(caught.compute, target, indices, n_points)
    return indices


share = task(name="sweep-share", cache_policy=NO_CACHE, persist_result=False, retries=2)(measure_share)


def _catch(bench: Workbench) -> _Caught:
    for stage in stages.ALL:
        stage(bench)
    try:
        evaluation.sweep(bench)
    except _Caught as caught:
        return caught
    raise AssertionError("the sweep was not caught")


def _spread(bench: Workbench, key: str, folder: Path, hook: ProgressHook, compute: Compute) -> None:
    scale, n_points = bench.settings.scale, _n_points(bench.settings)
    for left in folder.glob(".share-*"):  # of workers that were killed
        shutil.rmtree(left, ignore_errors=True)
    _measure(compute, folder, [], n_points)  # the thresholds, which all points need
    missing = [index for index in range(n_points) if not (folder / _name(index)).exists()]
    shares = [part for worker in range(scale.workers) if (part := missing[worker :: scale.workers])]
    if not shares:
        return
    path, profile = str(bench.settings_path.resolve()), bench.settings.profile
    root, target = str(bench.store.root.resolve()), str(folder.resolve())
    values = [(path, profile, root, target, key, part, n_points) for part in shares]
    hook(0, len(shares), f"{len(shares)} workers")
    sweep_points.with_options(task_runner=make_runner(scale))(
        values, scale.gpus_per_worker if scale.runner == "ray" else 0
    )


# of the module, and with plain arguments: processes and clusters get it by name
@flow(name="sweep-points", validate_parameters=False)
def sweep_points(shares: list[tuple[Any, ...]], gpus_per_worker: float) -> None:
    """Give each worker its share of the points, and wait for all of them."""
    resources: Any = contextlib.nullcontext()
    if gpus_per_worker:
        from prefect_ray.context import remote_options

        resources = remote_options(num_gpus=gpus_per_worker)
    with resources:
        futures = [share.submit(*values) for values in shares]
    for future in futures:
        future.result()


def _measure(compute: Compute, target: Path, indices: Sequence[int], n_points: int) -> None:
    """Run the stage's own code where every other point seems to be there, and move what it makes."""
    own = target / f".share-{os.getpid()}-{indices[0] if indices else 'thresholds'}"
    own.mkdir()
    try:
        thresholds = target / "thresholds.json"
        if thresholds.exists():
            shutil.copy(thresholds, own)
        for index in set(range(n_points)) - set(indices):
            (own / _name(index)).write_text("{}", "ascii")

        def move(done: int, total: int, text: str = "") -> None:
            for index in indices:
                if (own / _name(index)).exists() and not (target / _name(index)).exists():
                    shutil.copy(own / _name(index), target / f".{_name(index)}.partial")
                    os.replace(target / f".{_name(index)}.partial", target / _name(index))

        compute(own, move)
        if not thresholds.exists():
            os.replace(own / "thresholds.json", thresholds)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _n_points(settings: Settings) -> int:
    return 1 + len(settings.model.sweep.target_skip_rates)


def _name(index: int) -> str:
    return f"point-{index:02d}.json"
