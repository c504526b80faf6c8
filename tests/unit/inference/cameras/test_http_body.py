from __future__ import annotations

import re
import socket

import pytest

from fedfleet_inference_api.cameras.faults import SourceFailed
from fedfleet_inference_api.cameras.heads import Head, parse_head
from fedfleet_inference_api.cameras.http_body import ask, authorize, check_answer
from fedfleet_inference_api.cameras.seen import CameraCode
from fedfleet_inference_api.cameras.urls import parse_place


def refusal(*challenges: str) -> Head:
    lines = [f"WWW-Authenticate: {challenge}" for challenge in challenges]
    return parse_head("\r\n".join(["HTTP/1.1 401 No", *lines]).encode())


def test_basic_is_the_example_of_rfc_7617():
    place = parse_place("http://Aladdin:open%20sesame@cam/")

    assert authorize(refusal('Basic realm="x"'), place) == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


def test_digest_without_qop_is_the_example_of_rfc_2069():
    place = parse_place("http://Mufasa:CircleOfLife@www.nowhere.org/dir/index.html")
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    given = f'Digest realm="testrealm@host.com", nonce="{nonce}", opaque="5ccc069c403ebaf9f"'

    answer = authorize(refusal('Basic realm="x"', given), place)

    # The errata of RFC 2069 (749) give the response.
    assert 'response="1949323746fe6a43ef61f9606e7febea"' in answer
    assert 'opaque="5ccc069c403ebaf9f"' in answer
    assert "qop" not in answer


def test_digest_with_sha_256_is_preferred_to_basic():
    place = parse_place("http://u:p@cam/x")
    answer = authorize(
        refusal('Basic realm="x"', 'Digest realm="r\\"", nonce=abc, algorithm=SHA-256, qop="auth"'),
        place,
    )

    assert re.search(r'response="[0-9a-f]{64}"', answer)
    assert 'realm="r\\""' in answer
    assert answer.endswith("algorithm=SHA-256, qop=auth, nc=00000001")


@pytest.mark.parametrize("challenge", ["", "Bearer x", "Digest algorithm=SHA-512, nonce=a"])
def test_challenge_that_cannot_be_met_is_not(challenge):
    assert authorize(refusal(challenge), parse_place("http://u:p@cam/")) == ""


def test_nobody_is_told_a_password_that_there_is_not():
    assert authorize(refusal('Basic realm="x"'), parse_place("http://cam/")) == ""


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("HTTP/1.0 301 Moved", CameraCode.REDIRECT_REFUSED),
        ("HTTP/1.0 403 No", CameraCode.AUTH_FAILED),
        ("HTTP/1.0 404 No", CameraCode.NOT_FOUND),
        ("HTTP/1.0 503 Busy", CameraCode.FAILED),
        ("HTTP/1.0 504 Slow", CameraCode.TIMEOUT),
        ("HTTP/1.0 200 OK\r\nContent-Type: text/html", CameraCode.NO_VIDEO),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: multipart/x\r\nTransfer-Encoding: chunked",
            CameraCode.FAILED,
        ),
    ],
)
def test_answer_that_is_no_stream_is_named(answer, code):
    with pytest.raises(SourceFailed) as caught:
        check_answer(parse_head(answer.encode()))

    assert caught.value.code is code


def test_body_begins_with_what_came_with_the_head():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x\r\n\r\nabcdef")
        head, body = ask(ours, parse_place("http://cam:81/x?y"), "Basic z")
        theirs.sendall(b"ghi")
        theirs.shutdown(socket.SHUT_WR)

        assert head.status == 200
        assert [body.read(4), body.read(4), body.read(4), body.read(4)] == [
            b"abcd",
            b"ef",
            b"ghi",
            b"",
        ]
        asked = theirs.recv(4096).decode()
    assert asked.startswith("GET /x?y HTTP/1.0\r\nHost: cam:81\r\n")
    assert "Authorization: Basic z\r\n" in asked


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 200", b"SSH\r\n\r\n", b"x" * 20000])
def test_what_is_no_http_is_named(answer):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(SourceFailed) as caught:
            ask(ours, parse_place("http://cam/"), "")

    assert caught.value.code in (CameraCode.ENDED, CameraCode.FAILED)
