"""A camera's process that a camera has taken over: it tells what no process of ours does.

How it misbehaves is the camera's name, its first argument.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from fedfleet_inference_api.cameras.confinement import confine
from fedfleet_inference_api.cameras.ring import Picture, Ring
from fedfleet_inference_api.cameras.spec import Told, parse_spec


def tries(*ways: Callable[[], object]) -> str:
    """What came of each way to start another process."""
    found = []
    for way in ways:
        try:
            found.append(f"went {way()}")
        except OSError as error:
            found.append(type(error).__name__)
    return " ".join(found)


how = sys.argv[1]
line = sys.stdin.buffer.readline()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how == "nonsense":
    os.write(1, b"nonsense\n")
if how == "last-number":
    os.write(1, b'{"sequence": 9007199254740991}\n')
if how == "endless":
    while True:
        os.write(1, b"x" * 65536)
if how == "frames-that-are-not-there":
    for sequence in range(1, 100_000):
        os.write(1, b'{"sequence": %d}\n' % sequence)
        time.sleep(0.01)
if how == "flood-of-frames":
    for sequence in range(1, 1 << 40, 400):
        os.write(1, b"".join(b'{"sequence": %d}\n' % (sequence + i) for i in range(400)))
if how == "flood-of-faults":
    while True:
        os.write(1, b'{"fault": "x"}\n' * 1000)
if how in ("ring-number", "ring-time"):
    spec = parse_spec(line)
    ring, pixels = Ring(spec.ring_fd, spec.max_side), np.zeros((8, 8, 3), np.uint8)
    at_s, first = time.time(), 1 << 40
    if how == "ring-time":
        at_s, first = at_s + 1e6, 0
    for sequence in (first, 1):
        ring.write(Picture(sequence=sequence, at_s=at_s, media_s=None, pixels=pixels))
    os.write(1, b'{"sequence": 1}\n')
if how.startswith("copy"):
    if os.fork() == 0:
        os.setsid()
    elif how.startswith("copy-stays"):  # with the pipe in its hand, when the first has gone
        os._exit(1)
if how == "starts-processes":
    spec = parse_spec(line)
    found: list[str] = []
    begin = threading.Event()
    ways = (os.fork, lambda: os.execv(sys.executable, [sys.executable, "-c", ""]))

    def try_all() -> None:
        begin.wait()
        found.append(tries(*ways))

    before = threading.Thread(target=try_all)
    before.start()
    confine(spec.parent, spec.memory_mb)
    begin.set()
    before.join()
    found.append(tries(*ways))
    os.write(1, Told(fault=" ".join(found)).to_line())
    sys.exit()
if how == "silence":
    os.close(1)
time.sleep(600)
