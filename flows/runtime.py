"""The environment of a run: no telemetry, state in the runs folder, quiet loggers, a stated thread count.

`prepare` must run before prefect, mlflow, transformers and torch are imported, because they read the
environment at import. What a person set beforehand to point elsewhere (a Prefect server, a thread count) stays.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from flows.store import clear_disk_errors

FORCED = {
    # no telemetry, no look-ups, no update checks
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the new page asks an analytics host
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
"""Set whatever the environment says: in-house text never leaves the machine by accident."""

DEFAULTS = {
    # the temporary server is slow to start on a busy machine, and tells of its own shutdown in 200 lines
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # the server keeps the log; the command line tells errors itself, in one message instead of a traceback
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # an unreachable server is told within seconds, not minutes
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines and a request for each nested run
    "GIT_PYTHON_REFRESH": "quiet",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # libraries' bars would tear our own progress lines
    "MPLBACKEND": "Agg",
    # spinning OpenMP threads slow a shared machine down by a factor of ten
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Set where the environment is silent."""

PRIVATE = 0o077
"""Run data holds in-house text: files 0600, folders 0700, for this process and those it starts."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def prepare(runs_dir: Path, *, base_source: str = "", n_threads: int | None = None) -> dict[str, str]:
    """Set the process environment and return what was set.

    Args:
        runs_dir: Folder of the runs; Prefect's state and caches go there.
        base_source: `model.base.source`; a hub id allows the model hub, everything else forbids it.
        n_threads: Threads of the numeric libraries; None takes OMP_NUM_THREADS, or the cores that this process may use.

    Raises:
        PocError: The runs folder cannot be made.
    """
    runs_dir = runs_dir.resolve()
    # MKL's count would overrule OMP's in torch: the one that a person gave is meant for all
    threads = str(n_threads or os.environ.get("OMP_NUM_THREADS") or usable_cores())
    defaults = {
        **DEFAULTS,
        "PREFECT_HOME": str(runs_dir / "prefect"),
        "MPLCONFIGDIR": str(runs_dir / "cache" / "matplotlib"),
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    chosen = {name: value for name, value in defaults.items() if name not in os.environ} | FORCED
    if not is_hub_id(base_source):
        chosen |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    os.environ.update(chosen)
    os.umask(PRIVATE)
    with clear_disk_errors(runs_dir):
        # Prefect does not make parent folders: without this its server never starts
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    return chosen


def usable_cores() -> int:
    """Return the number of cores that this process may use: affinity and container quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))  # "max" is no number: no quota
    return cores


def is_hub_id(source: str) -> bool:
    """Tell whether a base model source names a model on a hub: no package and no folder on this machine."""
    if source.startswith("package:") or Path(source).exists():
        return False
    return _HUB_ID.fullmatch(source) is not None


def base_model_problem(source: str) -> str | None:
    """Return why a base model source cannot be used, or None. Looks, but loads nothing."""
    if source.startswith("package:"):
        package = source.removeprefix("package:")
        # the package itself is never imported: only its model file is read
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            return f"the Python package {package} that carries the base model is not installed"
        return None
    if Path(source).is_dir():
        return None if (Path(source) / "config.json").is_file() else f"{source} holds no config.json"
    return None if is_hub_id(source) else f"there is no folder {source}"


@contextlib.contextmanager
def quiet_engine() -> Iterator[None]:
    """Run Prefect flows in this block without heartbeats (each flow run otherwise ends a second later)."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # the environment cannot say "never": an empty value is refused
    with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
