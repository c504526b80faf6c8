from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video import write_video

from fedfleet_inference_api.cameras import decoding
from fedfleet_inference_api.cameras.decoding import Decoding, fitted, most_gap_s, upright
from fedfleet_inference_api.cameras.faults import SourceFailed
from fedfleet_inference_api.cameras.networks import CameraNetworks
from fedfleet_inference_api.cameras.ring import Ring, make_ring
from fedfleet_inference_api.cameras.source import open_source
from fedfleet_inference_api.cameras.spec import LATER_S, Spec, Told
from fedfleet_inference_api.cameras.urls import parse_place


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring(make_ring(64), 64)
    yield made
    made.close()


def spec_of(path: Path, *, loop: bool = True) -> Spec:
    return Spec(
        url=f"file:{path}",
        fps=5.0,
        stall_s=6.0,
        max_side=64,
        memory_mb=64,
        sequence=0,
        ring_fd=-1,
        parent=0,
        networks=CameraNetworks(),
        ca_file=None,
        loop=loop,
    )


@pytest.mark.parametrize(("count", "round_s"), [(1, 0.2), (20, 1.0)])
def test_file_begins_again_when_its_last_frame_has_been_shown(
    monkeypatch, tmp_path, ring, count, round_s
):
    path, clock = tmp_path / "still.mp4", Clock()
    write_video(path, (np.full((32, 32, 3), 90, np.uint8) for _ in range(count)), fps=20)
    monkeypatch.setattr(decoding, "time", clock)
    spec, told = spec_of(path), list[Told]()
    played = Decoding(spec, ring, told.append)

    for _ in range(3):
        source = open_source(spec, parse_place(spec.url))
        assert played.run(source) == count
        source.close()

    assert clock.now_s - 100.0 == pytest.approx(3 * round_s, abs=0.02)
    assert [one.sequence for one in told] == list(range(1, round(15 * round_s) + 1))


def test_gap_of_a_file_ends_before_its_camera_is_taken_for_stalled():
    assert most_gap_s(5.0 + LATER_S) == pytest.approx(4.0)
    assert most_gap_s(0.5 + LATER_S) < 0.5
    assert most_gap_s(3600.0) == decoding.JUMP_S


def test_frame_without_a_size_is_none():
    assert fitted(640, 480, 320) == (320, 240)
    with pytest.raises(SourceFailed):
        fitted(0, 480, 320)


# As ffmpeg writes and shows them: a, b, c, d of the matrix, and what is to be done.
TURNS = {
    (1, 0, 0, 1): lambda shown: shown,
    (0, 1, -1, 0): lambda shown: np.rot90(shown, -1),  # a phone held upright
    (-1, 0, 0, -1): lambda shown: np.rot90(shown, 2),
    (0, -1, 1, 0): np.rot90,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
}


def matrix_of(a: int, b: int, c: int, d: int, order: str = "=") -> bytes:
    return struct.pack(f"{order}9i", *(65536 * n for n in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)


@pytest.mark.parametrize("turn", TURNS)
def test_picture_is_turned_as_it_is_to_be_shown(turn):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)

    shown = upright(pixels, matrix_of(*turn))

    assert np.array_equal(shown, TURNS[turn](pixels))
    assert shown.flags.c_contiguous


@given(st.one_of(st.binary(max_size=40), st.binary(min_size=36, max_size=36)))
def test_whatever_the_matrix_is_the_picture_stays_one(matrix):
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)

    shown = upright(pixels, matrix)

    assert sorted(shown.shape) == sorted(pixels.shape)
    assert sorted(shown.ravel()) == sorted(pixels.ravel())


def test_file_with_a_mark_of_rotation_is_looked_at_upright(tmp_path, ring):
    path = tmp_path / "phone.mp4"
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, :32] = 255
    write_video(path, [frame], fps=5)
    data = path.read_bytes()
    header = data.index(b"tkhd")
    place = data.index(matrix_of(1, 0, 0, 1, ">"), header)
    turned = matrix_of(0, 1, -1, 0, ">")
    path.write_bytes(data[:place] + turned + data[place + len(turned) :])
    spec, told = spec_of(path), list[Told]()

    source = open_source(spec, parse_place(spec.url))
    Decoding(spec, ring, told.append).run(source)
    source.close()

    assert [(one.width, one.height) for one in told] == [(32, 64)]
    shown = ring.newest()
    assert shown is not None
    assert shown.pixels.shape == (64, 32, 3)
    assert shown.pixels[:28].min() > 200, "what was left is above"
    assert shown.pixels[36:].max() < 50
