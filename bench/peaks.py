"""Peak memory of every process that a measurement starts, by what the process is.

The kernel keeps each process's high-water mark while it lives, so one that comes and goes must be
looked at before it ends: a thread looks at all of them again and again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROC = Path("/proc")
EVERY_S = 0.25


class Peaks:
    """High-water marks of this process's descendants.

    Args:
        roles: a text of the command line, and what a process with it is called; the first counts.
    """

    def __init__(self, roles: Mapping[str, str]) -> None:
        self._roles = roles
        self._kilobytes: dict[int, int] = {}
        self._role_of: dict[int, str] = {}

    def look(self) -> None:
        """Take note of every process that is there now."""
        for pid in _descendants(os.getpid()):
            try:
                command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                peak = int(_field(pid, "VmHWM").split()[0])
            except (OSError, KeyError):
                continue  # it has just ended, and ended processes have no memory
            role = next((name for text, name in self._roles.items() if text in command), None)
            if role is not None:
                self._role_of[pid] = role
                self._kilobytes[pid] = max(peak, self._kilobytes.get(pid, 0))

    def megabytes(self) -> dict[str, float]:
        """The largest peak of the processes of each role (MB = 10^6 bytes)."""
        largest = dict.fromkeys(self._roles.values(), 0)
        for pid, role in self._role_of.items():
            largest[role] = max(largest[role], self._kilobytes[pid])
        return {role: round(kilobytes * 1024 / 1e6, 1) for role, kilobytes in largest.items()}


@contextmanager
def watched(roles: Mapping[str, str]) -> Iterator[Peaks]:
    """Look at the processes while the body runs, and once at its end."""
    peaks = Peaks(roles)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_S):
            peaks.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
        peaks.look()
    finally:
        over.set()
        thread.join()


def _field(pid: int, name: str) -> str:
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise KeyError(name)


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for path in PROC.iterdir():
        if path.name.isdecimal():
            try:
                parents[int(path.name)] = int(_field(int(path.name), "PPid"))
            except (OSError, KeyError):
                continue
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found[1:]
