"""Lets threads allocate at once; prints from how many arenas malloc served them.

Usage: python arenas_child.py limited|unlimited
"""

from __future__ import annotations

import ctypes
import sys
import threading

from fedfleet_coordinator.arenas import limit_arenas

THREADS = 8


def main() -> None:
    if sys.argv[1] == "limited":
        assert limit_arenas()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.fdopen.restype = ctypes.c_void_p
    together = threading.Barrier(THREADS + 1)

    def allocate() -> None:
        together.wait()
        assert libc.malloc(ctypes.c_size_t(1 << 16))
        together.wait()

    threads = [threading.Thread(target=allocate) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    together.wait()
    together.wait()
    out = ctypes.c_void_p(libc.fdopen(1, b"w"))
    assert libc.malloc_info(0, out) == 0
    libc.fflush(out)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
