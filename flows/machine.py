"""What this machine and this checkout are. Needs no torch on a machine without a CUDA device."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

from flows.runtime import usable_cores
from flows.settings import has_cuda


def environment(dtype: str) -> dict[str, Any]:
    """Return the `environment` object of result.json; `dtype` is that of the model."""
    cuda = has_cuda()
    return {
        "device": "cuda" if cuda else "cpu",
        "device_name": _gpu_name() if cuda else _cpu_name(),
        "n_cores": os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "n_threads": int(os.environ.get("OMP_NUM_THREADS") or usable_cores()),
        "dtype": dtype,
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
        "platform": f"{platform.system()} {platform.machine()}",
        "load_average_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "target_device_name": None,
    }


def fingerprint(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts on which a timing depends; the load of the moment is not one of them."""
    names = ("device", "device_name", "n_cores", "n_threads", "torch", "platform")
    return {name: facts[name] for name in names}


def git_commit() -> str | None:
    """Return the commit of the checkout this code runs from, or None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _gpu_name() -> str:
    import torch

    return str(torch.cuda.get_device_name())


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
