"""Lets a thread sleep until a process tells something, something is due, or somebody wakes it."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections.abc import Iterable
from typing import Protocol


class Heard(Protocol):
    """What is listened to."""

    def fileno(self) -> int:
        """Readable when there is something to hear; -1 when there never will be."""


class Sleeper:
    """Needs no file descriptor but those it began with, so it sleeps also where none is left.

    ``sleep`` belongs to one thread; ``wake`` and ``close`` may be called on any.
    """

    def __init__(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._heard: dict[Heard, int] = {}  # with the descriptor that is registered
        self._lock = threading.Lock()
        self._is_closed = False

    def sleep(self, heard: Iterable[Heard], wait_s: float) -> None:
        """Until one of these has something to be heard, somebody wakes us, or a time is over.

        Args:
            heard: all that are listened to. One that is closed is never among them again.
        """
        self._listen({one: fd for one in heard if (fd := one.fileno()) >= 0})
        for key, _ in self._selector.select(max(0.0, wait_s)):
            if key.fd == self._wake_read:
                os.read(self._wake_read, 4096)

    def _listen(self, heard: dict[Heard, int]) -> None:
        # First what is over: its descriptor may be that of another by now.
        for one in [one for one in self._heard if one not in heard]:
            self._selector.unregister(self._heard.pop(one))
        for one, fd in heard.items():
            if one not in self._heard:
                self._selector.register(fd, selectors.EVENT_READ)
                self._heard[one] = fd

    def wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # it has been woken often enough
            if not self._is_closed:
                os.write(self._wake_write, b".")

    def close(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._selector.close()
                os.close(self._wake_read)
                os.close(self._wake_write)
