"""V2 requests with binary tensor data, whole and damaged anywhere, and never a 500.

What the OpenAPI document can say of such a body is that it is bytes; here they are near the truth.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from serving import PIXELS, publish, serving, wait_served
from v2_binary import HEADER, answer_in, asked_with

from fedfleet.store.open import open_store

INFER = "/v2/models/digits/infer"
IMAGES = np.stack([PIXELS, PIXELS.T])[:, None]
OUTPUTS: list[dict[str, bool] | None] = [None, {"logits": True}, {"probabilities": True}]
OUTPUTS += [{"logits": True, "probabilities": False}]
REFUSED = {400, 413, 415}

# A body and its headers.
Request = tuple[bytes, dict[str, str]]
WHOLE = [
    asked_with(images, outputs)
    for images in (IMAGES, (IMAGES / 255).astype("<f4"))
    for outputs in OUTPUTS
]
WHOLE += [(PIXELS.tobytes(), {HEADER: "0"})]
# Pieces of JSON that mean something in such a request, of other lengths than what they replace.
PIECES = [b"binary_data", b"binary_data_size", b"true", b"null", b"-1", b"9" * 30, b"{}", b"[]"]
PIECES += [
    b'"data":[1],',
    b'"UINT8"',
    b'"FP32"',
    b'"BYTES"',
    b"\xff",
    b"\x00",
    b"\\u0000",
    b'"',
    b"\\ud800",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with open_store(f"sqlite:{tmp_path_factory.mktemp('bytes')}") as store:
        version = publish(store, seed=1)
        with serving(store) as (service, connected):
            wait_served(service, version)
            yield connected


@st.composite
def damaged(draw: st.DrawFn) -> Request:
    """A request with a piece of it replaced, or its header, or both."""
    body, headers = draw(st.sampled_from(WHOLE))
    place = draw(st.integers(0, len(body)))
    gone = draw(st.integers(0, 20))
    piece = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
    body = body[:place] + piece + body[place + gone :]
    length = int(headers[HEADER]) + draw(st.sampled_from([0, len(piece) - gone, 1, -1]))
    length_text = str(length) if draw(st.booleans()) else draw(LENGTHS)
    return body, {**headers, HEADER: length_text}


LENGTHS: SearchStrategy[str] = st.sampled_from(
    ["", "1 2", "-1", "0", "1", "00", "1.0", "0x10", "9" * 18, "9" * 19, "9" * 6000]
)


@pytest.mark.parametrize("place", range(len(WHOLE)))
def test_whole_request_is_answered(client: httpx.Client, place: int) -> None:
    body, headers = WHOLE[place]

    response = client.post(INFER, content=body, headers=headers)

    assert response.status_code == 200
    _, tensors = answer_in(response.content, response.headers)
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(damaged())
def test_damaged_request_is_answered_or_refused(client: httpx.Client, request_: Request) -> None:
    body, headers = request_

    response = client.post(INFER, content=body, headers=headers)

    if response.status_code == 200:
        answer_in(response.content, response.headers)
        return
    assert response.status_code in REFUSED
    assert set(response.json()) == {"error"}
    assert "\n" not in response.json()["error"]
