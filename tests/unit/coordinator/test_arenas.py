from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
from unit.coordinator import arenas_child

from fedfleet_coordinator.arenas import ARENAS, limit_arenas

# What tells malloc otherwise.
TUNING = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD")


def arenas(mode: str) -> int:
    """How many arenas a process has whose threads allocate."""
    environ = {k: v for k, v in os.environ.items() if k not in TUNING}
    done = subprocess.run(
        [sys.executable, arenas_child.__file__, mode],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="this libc is not glibc")
def test_limit_arenas_keeps_threads_from_an_arena_each() -> None:
    assert arenas("unlimited") > ARENAS
    assert 1 <= arenas("limited") <= ARENAS


def test_limit_arenas_says_that_another_system_cannot_be_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    assert not limit_arenas()
