from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import CARD, PIXELS
from starlette.datastructures import Headers
from v2_binary import HEADER, asked_with, body_of

from fedfleet.errors import BodyTooLarge, ImageInvalid, InvalidInput
from fedfleet_inference_api.v2_body import json_bytes_of, read_inference
from fedfleet_inference_api.v2_request import Asked, Output
from fedfleet_inference_api.v2_shapes import body_bounds

IMAGE = PIXELS[None, None]
ASKED = Asked("digits", CARD, 4)
BODY, HEADERS = asked_with(IMAGE)


def test_body_is_read_up_to_where_the_header_says():
    inference = read_inference(BODY, json_bytes_of(Headers(HEADERS)), ASKED)

    assert (inference.images == IMAGE).all()
    assert inference.outputs == (Output("probabilities", is_binary=True),)


def test_body_that_is_an_image_alone_is_answered_in_binary():
    inference = read_inference(PIXELS.tobytes(), 0, ASKED)

    assert (inference.images == IMAGE).all()
    assert inference.outputs == (Output("probabilities", is_binary=True),)
    assert inference.request_id is None


@pytest.mark.parametrize("size", [0, 63, 65, 128])
def test_body_that_is_not_one_image_alone_is_refused(size):
    with pytest.raises(InvalidInput, match="64 bytes of one image"):
        read_inference(bytes(size), 0, ASKED)


@pytest.mark.parametrize(
    ("json_bytes", "named"),
    [
        (len(BODY) + 1, "no more than"),
        (10**17, "no more than"),
        (len(BODY), "not JSON"),
        (None, "not JSON"),
        (len(BODY) - 65, "not JSON"),
        (len(BODY) - 63, "not JSON"),
    ],
)
def test_wrong_length_of_the_json_is_refused(json_bytes, named):
    with pytest.raises(InvalidInput, match=named):
        read_inference(BODY, json_bytes, ASKED)


@pytest.mark.parametrize("json_bytes", [None, 0, 2, 10])
def test_body_of_more_than_the_model_takes_is_refused_unread(json_bytes):
    most = body_bounds(CARD, 4).size_bytes

    with pytest.raises(BodyTooLarge):
        read_inference(bytes(most + 1), json_bytes, ASKED)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({HEADER: "-1"}, InvalidInput),
        ({HEADER: ""}, InvalidInput),
        ({HEADER: "1e3"}, InvalidInput),
        ({HEADER: "+1"}, InvalidInput),
        ({HEADER: "9" * 5000}, InvalidInput),
        ({HEADER: "10", "content-type": "image/png"}, ImageInvalid),
        ({"content-type": "application/octet-stream"}, ImageInvalid),
        ({"content-encoding": "gzip"}, ImageInvalid),
        ({**HEADERS, "content-encoding": "deflate"}, ImageInvalid),
    ],
)
def test_headers_that_say_nothing_of_use_are_refused(headers, error):
    with pytest.raises(error) as refused:
        json_bytes_of(Headers(headers))

    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    ("headers", "json_bytes"),
    [
        ({}, None),
        ({"content-type": "application/json; charset=utf-8"}, None),
        ({HEADER: "12"}, 12),
        ({HEADER.lower(): "0", "content-type": "Application/Octet-Stream"}, 0),
        ({HEADER: "12", "content-type": "application/json", "content-encoding": "identity"}, 12),
    ],
)
def test_headers_say_where_the_json_ends(headers, json_bytes):
    assert json_bytes_of(Headers(headers)) == json_bytes


@given(st.data())
def test_nothing_but_our_errors_comes_of_a_body_that_was_damaged(data):
    body, headers = data.draw(
        st.sampled_from(
            [asked_with(IMAGE), body_of({"inputs": []}), (IMAGE.tobytes(), {HEADER: "0"})]
        )
    )
    length = int(headers[HEADER]) + data.draw(st.integers(-3, 3) | st.integers(-(2**60), 2**60))
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    damaged = body[:start] + data.draw(st.binary(max_size=4)) + body[end:]

    with suppress(InvalidInput, BodyTooLarge):
        read_inference(damaged, max(0, length), replace(ASKED, most=1))
