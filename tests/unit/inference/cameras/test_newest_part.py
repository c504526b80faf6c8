from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras import newest_part
from fedfleet_inference_api.cameras.faults import SourceFailed
from fedfleet_inference_api.cameras.http_body import HttpBody
from fedfleet_inference_api.cameras.newest_part import NewestPart, Parts
from fedfleet_inference_api.cameras.seen import CameraCode

# With line ends, and what looks like a delimiter and is none.
PICTURES = [b"\xff\xd8one\xff\xd9", b"\xff\xd8\r\n\r\n--\r\n--oth\n\xff\xd9", b"\r\n", b"\xff"]


def part(picture: bytes, *, delimiter: bytes, end: bytes, has_length: bool, kind: bytes) -> bytes:
    lines = [delimiter, b"X-Other: 1"]
    lines += [b"content-TYPE: " + kind] if kind else []
    lines += [b"Content-Length:%d" % len(picture)] if has_length else []
    return end.join([*lines, b"", b""]) + picture + end


@given(
    delimiter=st.sampled_from([b"--frame", b"----frame", b"--a b"]),
    end=st.sampled_from([b"\r\n", b"\n"]),
    has_length=st.booleans(),
    kind=st.sampled_from([b"", b"image/jpeg", b"Image/JPG; x=y"]),
    preamble=st.sampled_from([b"", b"\r\n", b"no part\r\n"]),
    cuts=st.lists(st.integers(1, 400), max_size=30),
)
def test_parts_are_found_however_they_are_written_and_cut(
    delimiter, end, has_length, kind, preamble, cuts
):
    options = {"delimiter": delimiter, "end": end, "has_length": has_length, "kind": kind}
    pictures = [one for one in PICTURES if has_length or one.strip()]
    data = preamble + b"".join(part(one, **options) for one in pictures) + delimiter + b"--" + end
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts, found = Parts(), []

    for start, stop in itertools.pairwise(places):
        found += parts.feed(data[start:stop])

    assert found == pictures


def test_part_that_says_it_is_shorter_than_it_is_costs_itself_alone():
    parts = Parts()
    short = b"--b\r\nContent-Length: 3\r\n\r\nabcdef\r\n"

    assert parts.feed(short + b"--b\r\nContent-Length: 0\r\n\r\n\r\n" + short) == [b"abc", b"abc"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"--b\r\nContent-Type: image/png\r\n\r\nx", CameraCode.CODEC_UNSUPPORTED),
        (b"--b\r\nContent-Length: 90000000\r\n\r\nx", CameraCode.FAILED),
        (b"--b\r\n\r\n" + b"x" * 2000, CameraCode.FAILED),
        (b"--b\r\n" + b"x" * newest_part.MOST_HEAD, CameraCode.FAILED),
        (b"no delimiter " * 2000, CameraCode.FAILED),
    ],
)
def test_what_is_no_stream_of_pictures_is_given_up(monkeypatch, data, code):
    monkeypatch.setattr(newest_part, "MOST_PART", 1000)

    with pytest.raises(SourceFailed) as failed:
        Parts().feed(data)

    assert failed.value.code is code


@contextmanager
def connected() -> Iterator[tuple[socket.socket, NewestPart]]:
    camera, ours = socket.socketpair()
    ours.settimeout(0.5)
    newest = NewestPart(HttpBody(ours, b""))
    with camera:
        yield camera, newest
        newest.close()


def send(camera: socket.socket, *pictures: bytes) -> None:
    camera.sendall(
        b"".join(b"--b\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(p), p) for p in pictures)
    )


def read(newest: NewestPart, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = newest.read(7)
        assert 0 < len(piece) <= 7
        data += piece
    return data


def test_reader_gets_the_newest_part_whole_and_none_that_came_before_it():
    with connected() as (camera, newest):
        send(camera, b"first")
        first = read(newest, b"first\r\n")
        send(camera, *(b"picture %d" % number for number in range(50)))
        camera.shutdown(socket.SHUT_WR)
        newest._thread.join()  # all has come
        last = read(newest, b"picture 49\r\n")

        assert b"".join(Parts().feed(first)) == b"first"
        assert Parts().feed(last) == [b"picture 49"]
        assert newest.dropped == 49
        assert newest.read(7) == b""


@pytest.mark.parametrize(
    ("sent", "kind"), [(b"", TimeoutError), (b"--b\r\nContent-Type: a/b\r\n\r\n", SourceFailed)]
)
def test_reader_hears_why_there_is_no_part_any_more(sent, kind):
    with connected() as (camera, newest):
        camera.sendall(sent)

        for _ in range(2):
            with pytest.raises(kind):
                newest.read(7)
