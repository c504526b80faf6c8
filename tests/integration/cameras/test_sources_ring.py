from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fedfleet_inference_api.cameras.ring import SLOTS, Picture, Ring, make_ring

# Every pixel of a frame is its sequence: one that was torn has two. It changes size as well.
_WRITER = """
import sys
import numpy as np
from fedfleet_inference_api.cameras.ring import Picture, Ring

fd = int(sys.argv[1])
ring = Ring(fd, 256)
for sequence in range(1, 10**9):
    side = 256 - sequence % 7
    pixels = np.full((side, 256, 3), sequence % 251, np.uint8)
    assert ring.write(Picture(sequence=sequence, at_s=sequence / 2, media_s=None, pixels=pixels))
"""


@contextmanager
def written(kind: type[Ring] = Ring) -> Iterator[tuple[Ring, subprocess.Popen[bytes]]]:
    """A ring that another process writes to as fast as it can."""
    fd = make_ring(256)
    ring = kind(fd, 256)
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(fd)], pass_fds=(fd,))
    try:
        yield ring, writer
    finally:
        writer.kill()
        writer.wait()
        ring.close()


def test_no_frame_is_torn_however_fast_the_writer_is():
    torn: list[int] = []
    seen: list[list[int]] = [[], []]
    until_s = time.monotonic() + 30.0

    def read(ring: Ring, mine: list[int]) -> None:
        while len(mine) < 100 and time.monotonic() < until_s:
            found = ring.newest(mine[-1] if mine else 0)
            if found is None:
                continue
            last = found.sequence
            mine.append(last)
            is_whole = bool((found.pixels == last % 251).all())
            if not is_whole or found.pixels.shape[0] != 256 - last % 7 or found.at_s != last / 2:
                torn.append(last)

    with written() as (ring, writer):
        readers = [threading.Thread(target=read, args=(ring, mine)) for mine in seen]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert writer.poll() is None, "a place was free for each frame"

    assert torn == []
    for mine in seen:
        assert len(mine) == 100
        assert mine == sorted(set(mine)), "never an older one after a newer"


class SlowRing(Ring):
    """Reads a frame, lets the writer go on for long, and reads it again."""

    def _read(self, slot: int, after: int, up_to: int) -> Picture | None:
        first = super()._read(slot, after, up_to)
        assert first is not None
        until_s = time.monotonic() + 20.0
        while max(map(self._sequence, range(SLOTS))) < first.sequence + 20:
            assert time.monotonic() < until_s, "the writer waits for its reader"
        second = super()._read(slot, after, up_to)
        assert second is not None, "the writer took the frame that is being read"
        assert second.sequence == first.sequence
        assert np.array_equal(second.pixels, first.pixels)
        return second


def test_writer_neither_waits_for_a_reader_nor_writes_where_it_reads():
    last = 0
    with written(SlowRing) as (ring, writer):
        for _ in range(10):
            while (found := ring.newest(last)) is None:
                assert writer.poll() is None
            last = found.sequence
