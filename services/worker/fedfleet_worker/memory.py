"""A device whose memory is too small says so and works on."""

from __future__ import annotations

import ctypes
import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from fedfleet.errors import OutOfMemory
from fedfleet.training.out_of_memory import is_out_of_memory
from fedfleet_worker.sensors import measured

_MIB = 1 << 20
CLEAR_REFS = Path("/proc/self/clear_refs")
_ADVICE = "give it a narrower level, a smaller training.batch_size, or more memory"


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Turn every way of running out of memory into one error.

    Raises:
        OutOfMemory: memory ran out inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # Their frames hold the tensors that there was no room for.
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(
            f"this device's memory is too small for the training: {_ADVICE}", detail=repr(error)
        ) from None


def release_memory() -> None:
    """Give back to the system what nobody refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps what was freed, so that the process would stay as large as it was.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class MemoryLimit:
    """The most memory that the process may have resident while it trains.

    Looked at between two steps. Linux remembers the peak, so that what a step frees again counts;
    elsewhere, and where the peak cannot be reset, it is what is held at that moment. Not an rlimit:
    that would bound addresses instead of memory, and a failed allocation in one of grpc's threads
    would end the process.

    Args:
        limit_bytes: 0 for none.
    """

    def __init__(self, limit_bytes: int = 0) -> None:
        self._limit_bytes = limit_bytes
        self._has_peak = False

    def begin(self) -> None:
        """Forget the peak of what was before.

        Raises:
            OutOfMemory: there is more already.
        """
        if self._limit_bytes:
            # A peak that never falls would refuse all work after one that was too large.
            self._has_peak = measured(lambda: CLEAR_REFS.write_text("5")) is not None
            self.check()

    def check(self) -> None:
        """Raises OutOfMemory: there was more since ``begin``."""
        if not self._limit_bytes:
            return
        peak_bytes = measured(_peak_bytes) if self._has_peak else None
        held_bytes = peak_bytes or psutil.Process().memory_info().rss
        if held_bytes > self._limit_bytes:
            raise OutOfMemory(
                f"training took {held_bytes / _MIB:.0f} MiB of memory, this device allows "
                f"{self._limit_bytes / _MIB:.0f}: {_ADVICE}"
            )


def _peak_bytes() -> int:
    """The largest resident size since the peak was last forgotten."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise LookupError("VmHWM")
