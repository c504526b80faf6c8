"""A camera's newest frames in memory that its process shares with the service.

Legend: H, W = height, width in pixels, S = slots.

The memory has no name: the service makes it, and the process is given its file descriptor. So
nothing is left behind when either is killed, and the 64 MiB of /dev/shm in a container do not
count. Pages that no frame has touched take no memory, so the ring is made for the largest frame
that a camera may hand on, and takes what its frames need, also when they change their size.

A slot is written and read under a lock of its bytes (``fcntl``), never waited for. Two processes
cannot hold one slot, so no frame is ever torn, on processors that reorder stores as well; and the
kernel gives back what a killed process held. One reader takes one slot and the newest frame keeps
one: the third is always free for the writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedfleet.data.images import Pixels

SLOTS = 3
CHANNELS = 3
_HEAD = struct.Struct("=QddII")  # sequence, at_s, media_s or NaN, height, width
_PAGE = mmap.PAGESIZE


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """A frame as it is in a ring; the fields are those of ``Frame``."""

    sequence: int
    at_s: float
    media_s: float | None
    pixels: Pixels


def ring_bytes(max_side: int) -> int:
    """The size of a ring whose frames are at most ``max_side`` wide and high."""
    return SLOTS * _slot_bytes(max_side)


def make_ring(max_side: int) -> int:
    """Memory for a ring that can be neither grown nor cut; gives its file descriptor.

    A writer that cut it could kill its readers: so it is sealed where the system can do that.
    """
    size = ring_bytes(max_side)
    if not hasattr(os, "memfd_create"):  # not Linux
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    fd = os.memfd_create("fedfleet-camera", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class Ring:
    """One end of a ring; a writer and a reader are processes of their own.

    Args:
        fd: of ``make_ring``. The ring owns it: closing another descriptor of the same memory in
            this process would give up the locks.
    """

    def __init__(self, fd: int, max_side: int) -> None:
        self._fd = fd
        self._max_side = max_side
        self._slot_bytes = _slot_bytes(max_side)
        try:
            self._memory = mmap.mmap(fd, ring_bytes(max_side))
        except OSError:
            os.close(fd)
            raise
        self._bytes = np.frombuffer(self._memory, np.uint8)
        # Locks of files are those of a process: its own threads would not see each other's.
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                del self._bytes
                self._memory.close()
                os.close(self._fd)
                self._fd = -1

    def write(self, picture: Picture) -> bool:
        """Put a frame in the place of the oldest; False: every place is held by readers.

        Raises:
            ValueError: it is larger than the ring was made for.
        """
        height, width, channels = picture.pixels.shape
        if channels != CHANNELS or not (
            0 < min(height, width) <= max(height, width) <= self._max_side
        ):
            raise ValueError(f"a frame of {width}x{height}: at most {self._max_side} a side")
        media_s = math.nan if picture.media_s is None else picture.media_s
        head = _HEAD.pack(picture.sequence, picture.at_s, media_s, height, width)
        with self._lock:
            for slot in sorted(range(SLOTS), key=self._sequence)[: SLOTS - 1]:
                with self._locked(slot, fcntl.LOCK_EX) as is_held:
                    if not is_held:
                        continue
                    start = slot * self._slot_bytes
                    # Killed in the middle of it, the slot stays empty.
                    self._memory[start : start + _HEAD.size] = bytes(_HEAD.size)
                    end = start + _PAGE + picture.pixels.size
                    self._bytes[start + _PAGE : end] = picture.pixels.reshape(-1)
                    self._memory[start : start + _HEAD.size] = head
                    return True
        return False

    def newest(self, after: int = 0, up_to: int = 2**64 - 1) -> Picture | None:
        """The newest frame of those above ``after``; the pixels are the caller's own.

        Args:
            up_to: no frame with a sequence above it is taken.
        """
        with self._lock:
            if self._fd < 0:
                return None
            for slot in sorted(range(SLOTS), key=self._sequence, reverse=True):
                if self._sequence(slot) <= after:
                    return None
                with self._locked(slot, fcntl.LOCK_SH) as is_held:
                    picture = self._read(slot, after, up_to) if is_held else None
                if picture is not None:
                    return picture
        return None

    def _read(self, slot: int, after: int, up_to: int) -> Picture | None:
        start = slot * self._slot_bytes
        sequence, at_s, media_s, height, width = _HEAD.unpack_from(self._memory, start)
        # The other process may be anybody's by now: it decodes what a camera sends.
        if not after < sequence <= up_to or not math.isfinite(at_s) or math.isinf(media_s):
            return None
        if not (0 < height <= self._max_side and 0 < width <= self._max_side):
            return None
        start += _PAGE
        pixels = self._bytes[start : start + height * width * CHANNELS].copy()
        return Picture(
            sequence=sequence,
            at_s=at_s,
            media_s=None if math.isnan(media_s) else media_s,
            pixels=pixels.reshape(height, width, CHANNELS),
        )

    def _sequence(self, slot: int) -> int:
        sequence: int = _HEAD.unpack_from(self._memory, slot * self._slot_bytes)[0]
        return sequence

    @contextlib.contextmanager
    def _locked(self, slot: int, kind: int) -> Iterator[bool]:
        """Hold a slot if nobody else does."""
        try:
            fcntl.lockf(self._fd, kind | fcntl.LOCK_NB, 1, slot)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, slot)


def _slot_bytes(max_side: int) -> int:
    """A page for the head, then the pixels, rounded up to pages."""
    return _PAGE + -(-max_side * max_side * CHANNELS // _PAGE) * _PAGE
