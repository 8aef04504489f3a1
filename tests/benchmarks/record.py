"""From a result.json to the document that `make bench` keeps. Pure: no clock, no file, no process."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

SCHEMA_VERSION = 1
PACKAGES = ("mlflow", "numpy", "prefect")
DECODE_KEYS = ("routing", "batch", "prompt_tokens", "output_tokens", "dtype", "skip_rate", "estimated_ceiling",
               "measured_speedup", "low", "high", "n_pairs", "dense_s", "skip_s")  # fmt: skip


def record(
    result: dict[str, Any], *, first_run_s: float, second_run_s: float, peak_rss_gib: float, cpu: str,
    is_dirty: bool | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the document of one benchmark run.

    Args:
        result: result.json of the first run.
        first_run_s: Wall time of the run that computed everything. [s]
        second_run_s: Wall time of the same command again. [s]
        peak_rss_gib: Largest resident set of the first run. [GiB]
        cpu: Model name of the processor.
        is_dirty: Whether the checkout differed from its commit; None when unknown.
    """
    run, environment = result["run"], result["environment"]
    return {
        "schema_version": SCHEMA_VERSION,
        "date": run["created_at"][:10],
        "commit": run["git_commit"],
        "is_dirty": is_dirty,
        "code_sha256": run["code_sha256"],
        "hardware": {
            "device": environment["device"],
            "device_name": environment["device_name"],
            "cpu": cpu,
            "cores": environment["n_cores"],
            "threads": environment["n_threads"],
            "memory_gib": environment["memory_gib"],
            "load_average_1min": environment["load_average_1min"],
        },
        "versions": {name: environment[name] for name in ("python", "torch", "transformers")}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "profile": run["profile"],
        "settings_sha256": run["plan_sha256"],
        "stages": [{"name": row["name"], "seconds": round(row["seconds"], 3)} for row in result["stages"]],
        "first_run_s": round(first_run_s, 2),
        "second_run_s": round(second_run_s, 2),
        "peak_rss_gib": round(peak_rss_gib, 3),
        "decode": [{key: row[key] for key in DECODE_KEYS} for row in result["speed"] if row["phase"] == "decode"],
    }


def file_name(document: dict[str, Any]) -> str:
    """Return `stages_<date>_<commit>_<device>.json`; a second file of the same day, commit and device replaces it."""
    hardware = document["hardware"]
    device = "cpu" if hardware["device"] == "cpu" else hardware["device_name"]
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"stages_{document['date']}_{(document['commit'] or 'nocommit')[:10]}_{slug}.json"
