"""MLflow: one parent run per PoC run, its weeks below it, stages below those.

Only this file and `flows/tracking_model.py` import mlflow.

Runs are found again by tags (`skip_poc.run_id`, `skip_poc.stage_key`), so that a run which goes on after a kill
neither doubles nor loses anything. Only numbers, settings, hashes and the files given reach MLflow.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from flows import tracking_model
from flows.errors import PocError
from flows.store import Json, clear_disk_errors

RUN_TAG = "skip_poc.run_id"
STAGE_TAG = "skip_poc.stage_key"
OF_RUN_TAG = "skip_poc.of_run"
"""On every nested run: the PoC run it belongs to, at whatever depth."""
CHANGED_TAG = "skip_poc.changed."

MAX_PARAM_LENGTH = 500
MAX_KEY_LENGTH = 250
METRICS_PER_CALL = 800
ITEMS_PER_CALL = 100
RUNS_PER_PAGE = 1000
_PARENT_TAG = "mlflow.parentRunId"
_AWAY_CODES = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"}

Series = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class DatasetRef:
    """A data set that a stage read: its name, its hash and its size, never its text."""

    name: str
    sha256: str
    context: str
    """What it served for: train, validation, test, glossary, questions."""
    n_rows: int = 0


class TrackingAwayError(PocError):
    """The tracking server does not answer: the same call may succeed later."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_away, (self.what, self.where, self.todo))


def _away(what: str, where: str, todo: str) -> TrackingAwayError:
    return TrackingAwayError(what, where=where, todo=todo)


class Tracker:
    """Writes one PoC run to MLflow; every call may be repeated.

    Args:
        uri: Tracking address; None keeps a SQLite file in the runs folder.
        experiment: Name of the experiment, made when missing.
        runs_dir: Folder of the default SQLite file and of its artifacts.

    Raises:
        TrackingAwayError: The server does not answer.
        PocError: The server or file refuses, or the experiment was deleted.
    """

    def __init__(self, uri: str | None, experiment: str, runs_dir: Path) -> None:
        runs_dir = runs_dir.resolve()
        self.uri = uri or f"sqlite:///{runs_dir / 'mlflow.db'}"
        self.experiment = experiment
        self._runs_dir = runs_dir
        self._run_id = ""
        self._parent_id: str | None = None
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        # migration messages of a new database say nothing to the reader of a PoC; what goes wrong is raised too,
        # and told once instead of twice
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        with self._clear_errors():
            if uri is None:
                runs_dir.mkdir(parents=True, exist_ok=True)
            self._client = MlflowClient(tracking_uri=self.uri)
            self._experiment_id = self._get_or_create_experiment(
                (runs_dir / "mlartifacts").as_uri() if uri is None else None
            )

    @property
    def parent_id(self) -> str:
        """MLflow id of the parent run that `start` took up."""
        return self._parent()

    def start(self, run_id: str, name: str | None = None, tags: Mapping[str, str] | None = None) -> str:
        """Take up or make the parent run of a PoC run, and return its MLflow id."""
        with self._clear_errors():
            found = self._find(f"tags.`{RUN_TAG}` = '{run_id}'")
            for twin in found[1:]:  # of a request that was answered twice; the first one made has the children
                self._client.delete_run(twin.info.run_id)
            if found:
                self._parent_id = str(found[0].info.run_id)
                self._client.update_run(self._parent_id, status="RUNNING")
                for key, value in (tags or {}).items():
                    self._client.set_tag(self._parent_id, key, value)
            else:
                own = {**(tags or {}), RUN_TAG: run_id, "kind": "poc"}
                run = self._client.create_run(self._experiment_id, tags=own, run_name=name or run_id)
                self._parent_id = str(run.info.run_id)
            self._run_id = run_id
            self._known = {}
            for run in self._nested():
                self._remember(run)
        return self._parent_id

    def log_stage(
        self,
        name: str,
        key: str,
        *,
        params: Mapping[str, Json] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        series: Series | None = None,
        artifacts: Sequence[Path] = (),
        datasets: Sequence[DatasetRef] = (),
        kind: str = "stage",
        tags: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> str:
        """Log one finished stage as a nested run, once, and return its MLflow id.

        A nested run that is already finished is left as it is. One that a kill left half-written is removed
        and written again.

        Args:
            name: Shown name, such as `sweep 0.20`.
            key: The stage's key; the same key under the same parent is the same stage.
            params: Settings of the stage; nested names are flattened by the caller.
            metrics: Final numbers; None and non-finite values are left out.
            series: Curves as `(step, value)` pairs.
            artifacts: Files or folders to copy.
            datasets: What the stage read.
            kind: Value of the tag `kind`: ingest, train, sweep, measure, confirm.
            tags: Further tags.
            under: Names of the nested runs above it, outermost first, such as a week; made when missing. A stage
                that was logged goes by its name too.
        """
        parent_id = self._parent()
        with self._clear_errors():
            for group in under:
                parent_id = self._group(group, parent_id)
            done, status = self._known.get((parent_id, key), ("", ""))
            if status == "FINISHED":
                return done
            if done:
                self._client.delete_run(done)
            all_tags = {**(tags or {}), STAGE_TAG: key, "kind": kind, OF_RUN_TAG: self._run_id, _PARENT_TAG: parent_id}
            run_id = str(self._client.create_run(self._experiment_id, tags=all_tags, run_name=name).info.run_id)
            self._known[parent_id, key] = (run_id, "RUNNING")
            if datasets:
                self._client.log_inputs(run_id, [_dataset_input(dataset) for dataset in datasets])
            self._log_batches(run_id, _params(params or {}), _metrics(metrics or {}) + _series(series or {}))
            self._log_artifacts(run_id, artifacts)
            self._client.set_terminated(run_id, "FINISHED")
            self._known[parent_id, key] = (run_id, "FINISHED")
            self._known[parent_id, name] = (run_id, "FINISHED")
        return run_id

    def log_group(
        self, name: str, *, metrics: Mapping[str, float | None] | None = None, tags: Mapping[str, str] | None = None
    ) -> str:
        """Add numbers and tags to a nested run that holds others, such as a week, and return its MLflow id."""
        with self._clear_errors():
            run_id = self._group(name, self._parent())
            run_tags = [RunTag(key, value[:MAX_PARAM_LENGTH]) for key, value in (tags or {}).items()]
            self._log_batches(run_id, [], _metrics(metrics or {}), run_tags)
        return run_id

    def log_parent(
        self,
        *,
        params: Mapping[str, Json] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        tags: Mapping[str, str] | None = None,
        artifacts: Sequence[Path] = (),
    ) -> None:
        """Add to the parent run. Numbers that are already there are not repeated.

        MLflow never changes a logged parameter: one that differs now (say, the report's language) is kept as
        the tag `skip_poc.changed.<name>`.
        """
        parent_id = self._parent()
        with self._clear_errors():
            data = self._client.get_run(parent_id).data
            fresh = [param for param in _params(params or {}) if data.params.get(param.key) != param.value]
            new_params = [param for param in fresh if param.key not in data.params]
            changed = [RunTag(CHANGED_TAG + param.key, param.value) for param in fresh if param.key in data.params]
            new_metrics = [m for m in _metrics(metrics or {}) if data.metrics.get(m.key) != m.value]
            run_tags = changed + [RunTag(key, value[:MAX_PARAM_LENGTH]) for key, value in (tags or {}).items()]
            self._log_batches(parent_id, new_params, new_metrics, run_tags)
            self._log_artifacts(parent_id, artifacts)

    def finish(self, status: str = "FINISHED") -> None:
        """End the parent run as FINISHED, FAILED or KILLED, and remove what a repeated request made twice."""
        with self._clear_errors():
            seen: set[tuple[str, str]] = set()
            for run in self._nested():  # oldest first
                tags = run.data.tags
                place = (tags.get(_PARENT_TAG, ""), tags.get(STAGE_TAG, ""))
                if place in seen:
                    self._client.delete_run(run.info.run_id)
                seen.add(place)
            self._client.set_terminated(self._parent(), status)

    def log_model(
        self, checkpoint: Path, sha256: str, threshold: float, code: Sequence[Path], *, register_as: str | None = None,
        pip_requirements: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Log a SkipLayer checkpoint as an MLflow model, once, and return its model id.

        Args:
            checkpoint: Folder of the checkpoint.
            sha256: Hash of its weights; the same weights are the same model.
            threshold: At which it serves; 0 is dense.
            code: Files and packages that the model brings along; the first is the module that loads it.
            register_as: Name in the registry under which it gets the alias `candidate`; None registers nothing.
            pip_requirements: What serving it takes.
        """
        with self._clear_errors():
            model_id = tracking_model.log_once(
                self._client, self._experiment_id, self._parent(), checkpoint, sha256, threshold, code,
                pip_requirements, self._runs_dir,
            )  # fmt: skip
            self._client.set_tag(self._parent(), "skip_poc.model_id", model_id)
            if register_as is not None:
                tracking_model.register(self._client, self._parent(), register_as, model_id)
        return model_id

    def _group(self, name: str, parent_id: str) -> str:
        done, _ = self._known.get((parent_id, name), ("", ""))
        if done:
            return done
        tags = {STAGE_TAG: f"group {name}", "kind": "week", OF_RUN_TAG: self._run_id, _PARENT_TAG: parent_id}
        run_id = str(self._client.create_run(self._experiment_id, tags=tags, run_name=name).info.run_id)
        self._client.set_terminated(run_id, "FINISHED")  # what it holds has times of its own
        self._known[parent_id, name] = (run_id, "FINISHED")
        return run_id

    def _remember(self, run: Run) -> None:
        tags, entry = run.data.tags, (str(run.info.run_id), str(run.info.status))
        parent_id = tags.get(_PARENT_TAG, "")
        self._known.setdefault((parent_id, tags.get(STAGE_TAG, "")), entry)
        self._known.setdefault((parent_id, str(run.info.run_name)), entry)

    def _nested(self) -> list[Run]:
        """All runs of this PoC run below its parent, oldest first."""
        found: list[Run] = []
        token, condition = None, f"tags.`{OF_RUN_TAG}` = '{self._run_id}'"
        while True:
            page = self._client.search_runs([self._experiment_id], condition, max_results=RUNS_PER_PAGE,
                                            order_by=["attributes.start_time ASC"], page_token=token)  # fmt: skip
            found += page
            token = page.token
            if not token:
                return found

    def _parent(self) -> str:
        if self._parent_id is None:
            raise RuntimeError("Tracker.start must come first")
        return self._parent_id

    def _find(self, condition: str) -> list[Run]:
        order = ["attributes.start_time ASC"]
        return list(self._client.search_runs([self._experiment_id], condition, max_results=50, order_by=order))

    def _get_or_create_experiment(self, artifact_location: str | None) -> str:
        existing = self._client.get_experiment_by_name(self.experiment)
        if existing is None:
            return str(self._client.create_experiment(self.experiment, artifact_location=artifact_location))
        if existing.lifecycle_stage != "active":
            raise PocError(f"the MLflow experiment {self.experiment} was deleted", where=self.uri,
                           todo="restore it in MLflow or set another tracking.experiment")  # fmt: skip
        return str(existing.experiment_id)

    def _log_batches(
        self, run_id: str, params: Sequence[Param], metrics: Sequence[Metric], tags: Sequence[RunTag] = ()
    ) -> None:
        first = metrics[:METRICS_PER_CALL]
        for start in range(0, max(len(params), len(tags), 1), ITEMS_PER_CALL):
            end = start + ITEMS_PER_CALL
            batch = params[start:end], tags[start:end], first if start == 0 else ()
            if any(batch):
                self._client.log_batch(run_id, params=batch[0], tags=batch[1], metrics=batch[2])
        for start in range(METRICS_PER_CALL, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])

    def _log_artifacts(self, run_id: str, artifacts: Sequence[Path]) -> None:
        for path in artifacts:
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), path.name)
            else:
                self._client.log_artifact(run_id, str(path))

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            with clear_disk_errors(self._runs_dir):
                yield
        except (MlflowException, OSError) as error:
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            kind = TrackingAwayError if _is_away(error, self.uri) else PocError
            raise kind(
                f"MLflow did not take the run: {first_line[:MAX_PARAM_LENGTH]}",
                where=self.uri,
                todo="start the server or correct tracking.uri, then run the same command again; "
                "finished stages are kept",
            ) from error


def _is_away(error: Exception, uri: str) -> bool:
    """Tell whether a server may take the same call later: it does not answer, or says so itself."""
    if uri.startswith("sqlite"):
        return "database is locked" in str(error)
    if isinstance(error, MlflowException):
        return error.error_code in _AWAY_CODES
    if isinstance(error, FileNotFoundError):
        return False
    response = getattr(error, "response", None)
    return response is None or response.status_code >= 500


def _params(values: Mapping[str, Json]) -> list[Param]:
    return [Param(_key(key), _cut("null" if value is None else str(value))) for key, value in values.items()]


def _metrics(values: Mapping[str, float | None], step: int = 0) -> list[Metric]:
    now_ms = int(time.time() * 1000)
    return [
        Metric(_key(key), float(value), now_ms, step)
        for key, value in values.items()
        if value is not None and math.isfinite(value)
    ]


def _series(series: Series) -> list[Metric]:
    return [metric for key, points in series.items() for step, value in points
            for metric in _metrics({key: value}, step)]  # fmt: skip


def _dataset_input(ref: DatasetRef) -> DatasetInput:
    dataset = Dataset(
        name=ref.name,
        digest=ref.sha256[:36],  # MLflow's own limit; the whole hash is in the tag
        source_type="local",
        source=f'{{"uri": "{ref.name}"}}',  # the name only: a path would tell of the machine
        profile=f'{{"num_rows": {ref.n_rows}}}',
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", ref.context), InputTag("sha256", ref.sha256)])


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)[:MAX_KEY_LENGTH]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PARAM_LENGTH else text[: MAX_PARAM_LENGTH - 3] + "..."
