"""What a stage takes of the machine: processor, memory and disk while it runs, and its peak of memory.

The names are MLflow's own for system metrics, so that its page shows the curves where people look for them.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

LOOK_EVERY_S = 0.25
"""Pace of looking at memory, which may rise and fall within a second. [s]"""
KEEP_EVERY_S = 5.0
"""Pace of the curves that are kept. [s]"""
MAX_SAMPLES = 500
"""Of a longer stage every second sample is dropped again and again, so that a record stays small."""

_MIB = 2.0**20


@dataclass
class Usage:
    """What was seen of one stage."""

    peak_memory_mib: float = 0.0
    """Largest resident memory of this process and its children. [MiB]"""
    peak_gpu_memory_mib: float | None = None
    """Largest memory that torch held on the CUDA device; None without one. [MiB]"""
    at_s: list[float] = field(default_factory=list)
    """Times of the samples since the stage began. [s]"""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Curves by MLflow's names."""

    def keep(self, at_s: float, values: dict[str, float]) -> None:
        """Add one sample to the curves."""
        if len(self.at_s) >= MAX_SAMPLES:
            self.at_s = self.at_s[::2]
            self.samples = {name: curve[::2] for name, curve in self.samples.items()}
        self.at_s.append(round(at_s, 1))
        for name, value in values.items():
            self.samples.setdefault(name, []).append(round(value, 1))


@contextlib.contextmanager
def measured() -> Iterator[Usage]:
    """Watch this process and its children while the block runs; a thread looks, nothing is started."""
    usage, ended = Usage(), threading.Event()
    has_gpu = _reset_gpu()
    watcher = threading.Thread(target=_watch, args=(usage, ended), daemon=True, name="meter")
    watcher.start()
    try:
        yield usage
    finally:
        ended.set()
        watcher.join()
        if has_gpu:
            import torch

            usage.peak_gpu_memory_mib = torch.cuda.max_memory_allocated() / _MIB


def _watch(usage: Usage, ended: threading.Event) -> None:
    process, started, kept_at = psutil.Process(), time.monotonic(), float("-inf")
    psutil.cpu_percent()  # the first call only starts the measurement
    while True:
        memory = _resident(process)
        usage.peak_memory_mib = max(usage.peak_memory_mib, memory)
        now = time.monotonic()
        if now - kept_at >= KEEP_EVERY_S:
            kept_at = now
            virtual, disk = psutil.virtual_memory(), psutil.disk_usage("/")
            usage.keep(now - started, {
                "system/cpu_utilization_percentage": psutil.cpu_percent(),
                "system/system_memory_usage_megabytes": virtual.used / 1e6,
                "system/system_memory_usage_percentage": virtual.percent,
                "system/disk_usage_percentage": disk.percent,
                "system/process_memory_megabytes": memory * _MIB / 1e6,
            })  # fmt: skip
        if ended.wait(LOOK_EVERY_S):
            return


def _resident(process: psutil.Process) -> float:
    total = 0
    with contextlib.suppress(psutil.Error):
        total = process.memory_info().rss
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += child.memory_info().rss
    return total / _MIB


def _reset_gpu() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return False
    torch.cuda.reset_peak_memory_stats()
    return True
