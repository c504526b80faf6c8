from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.networks import parse_camera_networks
from fedfleet_inference_api.cameras.seen import CameraCode
from fedfleet_inference_api.cameras.spec import MOST_LINE, Spec, Told, parse_spec, parse_told


def test_spec_travels_as_one_line_and_hides_its_url():
    spec = Spec(
        url="rtsp://u:hush@cam/\u00e9",
        fps=5.0,
        stall_s=5.0,
        max_side=640,
        memory_mb=512,
        sequence=7,
        ring_fd=5,
        parent=1,
        networks=parse_camera_networks("10.0.0.0/8, cam.lan"),
        ca_file=Path("/x/y.pem"),
        loop=False,
    )

    assert parse_spec(spec.to_line()) == spec
    assert spec.to_line().count(b"\n") == 1
    assert "hush" not in repr(spec)


@given(st.integers(0, 2**53 - 1), st.floats(0, 1e4), st.sampled_from(CameraCode))
def test_word_of_a_process_travels_as_one_short_line(sequence, fps, code):
    told = Told(sequence=sequence, width=4096, height=4096, fps=fps, codec="libdav1d", code=code)

    assert parse_told(told.to_line()) == told
    assert len(told.to_line()) < MOST_LINE


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{",
        b'{"sequence": -1}',
        b'{"sequence": 1.5}',
        b'{"sequence": true}',
        b'{"sequence": 9007199254740992}',
        b'{"fps": NaN}',
        b'{"code": "gone"}',
        b'{"codec": 5}',
        b'{"codec": "a\\nb"}',
        b'{"fault": "' + b"x" * 201 + b'"}',
        b"\xff",
        b"[" * 400,
    ],
)
def test_word_that_no_process_of_ours_says_is_refused(line):
    with pytest.raises((ValueError, RecursionError)):
        parse_told(line)
