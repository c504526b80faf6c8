"""A camera's process that a camera has taken over: it tells what no process of ours does.

How it misbehaves is the camera's name, its first argument.
"""

from __future__ import annotations

import os
import signal
import sys
import time

how = sys.argv[1]
sys.stdin.buffer.readline()
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
if how == "silence":
    os.close(1)
time.sleep(600)
