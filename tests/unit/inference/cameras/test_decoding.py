from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from video import write_video

from fedfleet_inference_api.cameras import decoding
from fedfleet_inference_api.cameras.decoding import Decoding, fitted, most_gap_s
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
