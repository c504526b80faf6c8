"""Gives memory that a dropped version has left back to the system."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

# Found where the C library is glibc; another one, or a preloaded allocator, keeps house itself.
_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
_TRIM: Callable[[int], int] | None = getattr(_LIBRARY, "malloc_trim", None)


def give_back() -> None:
    """Trim the heap; takes some ten milliseconds, so not on the event loop.

    The C library keeps what was freed for later. A version is made of large and small pieces, so
    what stays after a swap is a sixth of the process's memory (mobilenet_v3_small), and differs
    from swap to swap.
    """
    if _TRIM is not None:
        _TRIM(0)
