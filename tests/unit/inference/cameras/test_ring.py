from __future__ import annotations

import math
import mmap
import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from fedfleet_inference_api.cameras.ring import SLOTS, Picture, Ring, make_ring, ring_bytes


def picture(sequence: int, height: int = 6, width: int = 8, media_s: float | None = 0.5) -> Picture:
    pixels = np.random.default_rng(sequence).integers(0, 256, (height, width, 3), np.uint8)
    return Picture(sequence=sequence, at_s=float(sequence), media_s=media_s, pixels=pixels)


@pytest.fixture
def ring():
    made = Ring(make_ring(64), 64)
    yield made
    made.close()


def test_ring_gives_the_newest_frame_and_only_once(ring):
    assert ring.newest() is None
    for sequence in range(1, 6):
        ring.write(picture(sequence, height=sequence))

    newest = ring.newest(after=2)

    assert newest is not None
    assert (newest.sequence, newest.at_s, newest.media_s) == (5, 5.0, 0.5)
    assert np.array_equal(newest.pixels, picture(5, height=5).pixels)
    assert ring.newest(after=5) is None


def test_ring_hands_out_frames_that_are_the_readers_own(ring):
    ring.write(picture(1, media_s=None))
    first = ring.newest()
    assert first is not None
    before = first.pixels.copy()

    for sequence in range(2, 9):
        ring.write(picture(sequence))

    assert np.array_equal(first.pixels, before)
    assert first.media_s is None


def test_ring_takes_frames_up_to_its_size(ring):
    assert ring.write(picture(1, 64, 64))
    for height, width in [(65, 8), (8, 65), (0, 8)]:
        with pytest.raises(ValueError, match="at most 64"):
            ring.write(picture(2, height, width))


def test_closed_ring_has_no_frames(ring):
    ring.write(picture(1))
    ring.close()

    assert ring.newest() is None


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux seals memory")
def test_memory_of_a_ring_can_be_neither_cut_nor_grown(ring):
    fd = make_ring(64)
    for size in (0, ring_bytes(64) * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)


def test_reader_believes_no_size_that_the_memory_does_not_have():
    fd = make_ring(64)
    memory = mmap.mmap(fd, ring_bytes(64))
    ring = Ring(fd, 64)
    ring.write(picture(7))
    slot = next(i for i in range(SLOTS) if memory[i * ring_bytes(64) // SLOTS])
    start = slot * ring_bytes(64) // SLOTS

    memory[start + 24 : start + 28] = (1 << 31).to_bytes(4, sys.byteorder)

    assert ring.newest() is None
    memory.close()
    ring.close()


def test_reader_takes_no_frame_above_what_it_was_told_of(ring):
    ring.write(picture(1 << 40))
    ring.write(picture(3))

    newest = ring.newest(up_to=3)

    assert newest is not None
    assert newest.sequence == 3
    assert ring.newest(after=3, up_to=7) is None


@pytest.mark.parametrize(
    "times", [{"at_s": math.inf}, {"at_s": math.nan}, {"media_s": math.inf}, {"media_s": -math.inf}]
)
def test_reader_believes_no_time_that_is_none(ring, times):
    ring.write(replace(picture(1), **times))

    assert ring.newest() is None
