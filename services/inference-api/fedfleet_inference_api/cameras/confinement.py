"""What a camera's process gives up before it hears from the camera."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

from fedfleet_inference_api.cameras.no_copies import forbid_copies

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_MOST_FILES = 64
MIB = 1024 * 1024


def confine(parent: int, memory_mb: int) -> None:
    """Bind this process to its parent's life, to its memory, to itself, and to writing no file.

    Credentials are in its memory: no core is written, and no process of the same user reads it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, _MOST_FILES)
    _lower(resource.RLIMIT_AS, memory_mb * MIB)
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    forbid_copies()
    # A process that hangs does not see that its standard input has ended.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)  # the parent went before it could be waited for


def _lower(what: int, limit: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(what, (limit, limit))
