"""Slows processes down by the kernel's CPU quota: control groups, version 2 or 1.

The quota is a share of one core; within each period of 100 ms a group that has used its part waits
for the next one. Processes that a member starts are members too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONTROL = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
_PATIENCE_S = 10.0


def is_allowed() -> bool:
    """Whether this machine lets us make groups with quotas."""
    try:
        with slowed(1.0):
            return True
    except OSError:
        return False


@contextmanager
def slowed(cores: float) -> Iterator[Path]:
    """A group while the body runs; its processes together get so much of a core, as of now.

    Raises:
        OSError: this machine does not allow it.
    """
    is_second = (CONTROL / "cgroup.controllers").exists()
    parent = CONTROL if is_second else CONTROL / "cpu"
    group = parent / f"fedfleet-bench-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        quota_us = round(cores * PERIOD_US)
        if is_second:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        yield group
    finally:
        _remove(group)


def put_into(group: Path, pid: int) -> None:
    """Slow a process down, with all of its threads."""
    (group / "cgroup.procs").write_text(str(pid))


def throttled_share(group: Path) -> float:
    """Of the periods in which the group ran, the share in which it used up its quota."""
    lines = (line.split() for line in (group / "cpu.stat").read_text().splitlines())
    stat = {key: int(value) for key, value in lines}
    return stat["nr_throttled"] / max(1, stat["nr_periods"])


def _remove(group: Path) -> None:
    """A group can go once its last process has ended, which the kernel notes a moment later."""
    until_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
        else:
            return
