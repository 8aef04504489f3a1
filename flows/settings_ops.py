"""Settings of the operation: tracking, workers, and when the month stops."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from flows.settings_base import NotNegative, Strict, Text


class TrackingSettings(Strict):
    """Where MLflow keeps the runs. Not part of the plan."""

    uri: Text | None = None
    """Tracking address, without user and password, which MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of the
    environment give; null keeps a SQLite file in the runs folder."""
    experiment: Text = "skiplayer-poc"
    """Name of the MLflow experiment. Left out it is `skiplayer-poc: TITLE`, one experiment per PoC."""
    log_model: bool = True
    """Log the SkipLayer checkpoint as an MLflow model: weights tuned on the corpus, and the terms that must not be
    skipped, as token numbers. false keeps them in the runs folder."""

    @field_validator("uri")
    @classmethod
    def _hold_no_password(cls, uri: str | None) -> str | None:
        if uri is not None and "@" in uri.partition("://")[2].partition("/")[0]:
            raise ValueError("the address must not hold a user or password; give them by MLFLOW_TRACKING_USERNAME and "
                             "MLFLOW_TRACKING_PASSWORD of the environment")  # fmt: skip
        return uri


class ScaleSettings(Strict):
    """How many workers share the sweep. Not part of the plan: the rows are the same."""

    runner: Literal["sequential", "threads", "processes", "dask", "ray"] = "sequential"
    """Prefect task runner of the sweep points. dask and ray need the extra `scale`."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    """Workers; each loads the model once."""
    gpus_per_worker: NotNegative = 0.0
    """GPUs that each worker takes; ray only. Others see the devices of CUDA_VISIBLE_DEVICES."""
    address: Text | None = None
    """Scheduler of a running Dask cluster, or `auto` or an address of a running Ray cluster; null starts a local one.
    Its machines must see the runs folder under the same path."""


class MonthSettings(Strict):
    """When the month stops before its end. Part of the plan: stop rules are registered like limits."""

    stop_without_enough_items: bool = True
    """After week 1: stop when fewer question items are there than the registered margin takes."""
    stop_without_threshold: bool = True
    """After week 2: stop when no threshold passes on validation. The report is then written in week 4 all the same,
    with the test split closed."""
    stop_when_speed_is_refuted: bool = True
    """After week 3: stop when the whole interval of the measured speed-up lies below the limit. The test split then
    stays closed, and can serve another attempt."""
