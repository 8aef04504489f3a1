"""Keeping freed memory inside the process, which on a CPU decides half of the speed."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large freed blocks instead of returning them to the system.

    Activations of some megabytes come and go with every layer; by default each is mapped anew and its pages
    are zeroed on first touch. Reusing them made a forward pass about twice as fast where it was measured
    (2 cores, 135M parameters, float32). Costs nothing but a higher resident size between passes.

    Returns:
        Whether the allocator took the setting; False on anything but glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
