"""What of the device a timing comes from: its facts, peak memory, energy, and whether it ran out of memory."""

from __future__ import annotations

import gc
import importlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skipmodel.engine.calibration import hardware

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def load_average() -> float | None:
    """Return the load of the last minute, None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def environment(device: torch.device) -> dict[str, Any]:
    """Return the facts on which a timing depends, and the load before it."""
    import transformers

    facts = hardware(device)
    supported = torch.cuda.is_bf16_supported() if device.type == "cuda" else True
    return facts | {
        "python": platform.python_version(),
        "transformers": transformers.__version__,
        "instructions": [flag for flag in _FLAGS if flag in _cpu_flags()],
        "dtypes": ["float32", *(["bfloat16"] if supported else [])],
        "memory_bytes": _memory_bytes(device),
        "load_before": load_average(),
        "load_after": None,
    }


def _cpu_flags() -> set[str]:
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text("utf-8").splitlines() if facts.is_file() else ():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()


def _memory_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


# --- memory -----------------------------------------------------------------------------------------------------


def reset_peak(device: torch.device) -> None:
    """Start the peak of the CUDA allocator anew; that of a process cannot be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, Any]:
    """Return the peak: of the CUDA allocator since `reset_peak`, or else of this process since its start."""
    if device.type == "cuda":
        return {"bytes": int(torch.cuda.max_memory_allocated(device)), "of": "cuda_allocator"}
    try:
        import resource
    except ImportError:
        return {"bytes": None, "of": "unknown"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of": "process"}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def free_memory(device: torch.device) -> None:
    """Let go of what a failed cell left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# --- energy -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnergyMeter:
    """Reads the energy counter of an NVIDIA device.

    Attributes:
        handle: Of NVML; None where there is no meter.
        nvml: The module.
        reason: Why there is none; None where there is one.
    """

    handle: Any = None
    nvml: Any = None
    reason: str | None = None

    @classmethod
    def none(cls, reason: str = "not asked for") -> EnergyMeter:
        """Return a meter that reads nothing."""
        return cls(reason=reason)

    @classmethod
    def open(cls, device: torch.device) -> EnergyMeter:
        """Return the meter of a device, or one that says why there is none."""
        if device.type != "cuda":
            return cls.none("no CUDA device")
        try:
            nvml = importlib.import_module("pynvml")  # optional, and no dependency of this package
            nvml.nvmlInit()
            handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except ImportError:
            return cls.none("pynvml is not installed")
        except Exception as error:  # NVML raises classes of its own module
            return cls.none(f"NVML: {error}")
        return cls(handle, nvml)

    def read(self) -> float | None:
        """Return the counter in joules."""
        if self.handle is None:
            return None
        return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1000.0

    def since(self, before: float | None) -> float | None:
        """Return the joules used since a reading."""
        now = self.read()
        return None if before is None or now is None else now - before
