from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_camera import GOOD, SDP

from fedfleet_inference_api.cameras.answer_filter import MOST_BODY, AnswerFilter
from fedfleet_inference_api.cameras.faults import SourceFailed
from fedfleet_inference_api.cameras.heads import MOST_HEAD, HeadInvalid
from fedfleet_inference_api.cameras.seen import CameraCode

PLAY = b"PLAY rtsp://127.0.0.1:5/live RTSP/1.0\r\nCSeq: 4\r\n\r\n"
FRAME = b"$\x00\x00\x05Loca\n"
TALK = b"".join(
    [
        GOOD["OPTIONS"].encode(),
        FRAME,
        b"\r\nOPTIONS rtsp://cam/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        GOOD["DESCRIBE"].replace("CSeq", "Server: X\r\nLocation: rtsp://b/\r\nCSeq").encode(),
        GOOD["SETUP"].encode(),
    ]
)


def passed(*pieces: bytes) -> bytes:
    one = AnswerFilter()
    return b"".join(one.feed(piece) for piece in pieces)


def test_answers_pass_with_the_headers_that_are_needed():
    text = passed(TALK).decode()

    assert text.count("RTSP/1.0 200 Answer\r\n") == 3
    assert "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n" in text
    assert f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}" in text
    assert FRAME.decode() in text
    assert "Location" not in text
    assert "Server" not in text
    assert "OPTIONS rtsp:" not in text, "what the camera asks is not answered"


@given(st.lists(st.integers(0, len(TALK)), max_size=12))
def test_answers_pass_alike_however_they_are_cut(cuts):
    ends = [0, *sorted(cuts), len(TALK)]

    assert passed(*(TALK[a:b] for a, b in pairwise(ends))) == passed(TALK)


@given(st.lists(st.sampled_from([b"RTSP/1.0 ", b"302", b"200", b" x", b"\r\n", b"\n", b"\r", b"$",
                                 b"Location: rtsp://b/", b"Content-Length: ", b"7", b":", b" ",
                                 b"\x00", b"OPTIONS * RTSP/1.0"]), max_size=30))  # fmt: skip
def test_no_bytes_make_a_redirect_of_what_passes(pieces):
    one, out = AnswerFilter(), b""
    try:
        for piece in pieces:
            out += one.feed(piece)
    except (SourceFailed, HeadInvalid):
        pass

    while out:
        if out.startswith(b"$"):
            length = 4 + int.from_bytes(out[2:4], "big")
        else:
            head, _, _ = out.partition(b"\r\n\r\n")
            assert head.startswith(b"RTSP/1.0 2") or not head.startswith(b"RTSP/1.0 3")
            assert b"location" not in head.lower()
            length = len(head) + 4
            if b"Content-Length: " in head:
                length += int(head.rpartition(b"Content-Length: ")[2])
        assert length <= len(out), "whole ones alone"
        out = out[length:]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308, 399])
def test_redirect_is_refused_and_named(status):
    one = AnswerFilter()

    with pytest.raises(SourceFailed) as caught:
        one.feed(f"RTSP/1.0 {status} Moved\r\nLocation: rtsp://b/\r\n\r\n".encode())

    assert caught.value.code is CameraCode.REDIRECT_REFUSED


def test_refusal_is_remembered_until_an_answer_is_none():
    one = AnswerFilter()
    codes = []
    for status in (401, 200, 404, 500, 200):
        one.feed(f"RTSP/1.0 {status} X\r\n\r\n".encode())
        codes.append(one.code)

    assert codes == [
        CameraCode.AUTH_FAILED,
        CameraCode.NONE,
        CameraCode.NOT_FOUND,
        CameraCode.FAILED,
        CameraCode.NONE,
    ]


def test_nothing_is_looked_at_once_play_is_answered():
    one = AnswerFilter()
    one.note_request(PLAY[:10])
    one.note_request(PLAY[10:])
    assert one.feed(FRAME) == FRAME
    assert not one.is_open

    out = one.feed(GOOD["PLAY"].encode() + FRAME[:3])

    assert one.is_open
    assert out.endswith(b"\r\n\r\n" + FRAME[:3])
    assert one.feed(FRAME[3:] + b"\x00") == FRAME[3:] + b"\x00"


def test_play_in_the_address_of_another_request_opens_nothing():
    one = AnswerFilter()
    one.note_request(b"OPTIONS rtsp://a/PLAY RTSP/1.0\r\nPLAY : x\r\n\r\n")
    one.feed(GOOD["PLAY"].encode())

    assert not one.is_open


def test_stream_without_pictures_is_named():
    with pytest.raises(SourceFailed) as caught:
        passed(GOOD["DESCRIBE"].replace("m=video", "m=audio").encode())

    assert caught.value.code is CameraCode.NO_VIDEO


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"RTSP/2.0 200 OK\r\n\r\n",
        b"RTSP/1.0 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        f"RTSP/1.0 200 OK\r\nContent-Length: {MOST_BODY + MOST_HEAD}\r\n\r\n".encode(),
        b"x" * (MOST_HEAD + 1),
        b"RTSP/1.0 200 OK\r\nX: " + b"x" * MOST_HEAD + b"\r\n\r\n",
    ],
)
def test_what_is_no_rtsp_is_not_read_on(data):
    with pytest.raises(HeadInvalid):
        passed(data)
