"""Keeps the memory of large tensors in the process, for the next step to use.

Each step of training frees its gradients and activations and asks for as much again. By default
the C library gives pieces of this size back to the system, and the system clears each page anew:
about a tenth of a step on a processor.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
# The most that glibc takes; larger pieces are given back as before.
_LARGEST = 32 << 20
_KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Make this process keep up to a gibibyte that it has freed; returns whether it does.

    For a process that trains and does little else. Another C library than glibc is left alone.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    told = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _KEPT))
    return mallopt is not None and all(mallopt(option, value) == 1 for option, value in told)
