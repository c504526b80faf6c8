"""Runs a module as a process that cannot outlive the one that started it.

Started as ``python -m fedfleet.cli.launch PARENT_PID MODULE [ARGUMENT...]``. On Linux the kernel is
told to send SIGKILL when the thread that started this process ends (prctl PR_SET_PDEATHSIG), which
holds even when the parent itself is killed by SIGKILL; so the parent must start its children from a
thread that lives as long as it does, its main thread. The services lose nothing by a SIGKILL. It is
done here and not in a ``preexec_fn``, which is unsafe once threads run. Elsewhere a thread looks
twice a second whether the parent is still there.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_LOOK_S = 0.5


def bind_to(parent: int) -> None:
    """End this process by SIGKILL when its parent has ended, even if it has already."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    else:
        threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()
    if os.getppid() != parent:  # it ended before it could be watched
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Bind, then become the module."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    bind_to(parent)
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
