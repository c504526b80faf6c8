"""JSON that is small to send and dear to read is refused before anything is made of it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import httpx
import pytest
from detectors import DETECTOR, servable
from serving import CARD, publish, serving, wait_served

from fedfleet.errors import InvalidInput
from fedfleet.store.open import open_store
from fedfleet_inference_api.v2_request import Asked, Output, parse_inference
from fedfleet_inference_api.v2_shapes import MOST_ANSWERED, body_bounds

BODY_BYTES = 15 * 1024 * 1024
INFER = "/v2/models/digits/infer"
NOTHING = memoryview(b"")  # behind the JSON
IN_TIME_S = 1.0  # to read a body and refuse it; each of these took 1.5 to 6 s to be parsed


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service of a model whose requests are as large as a body may be."""
    large = replace(CARD, inputs=replace(CARD.inputs, height=224, width=224))
    with open_store(f"sqlite:{tmp_path_factory.mktemp('json')}") as store:
        version = publish(store, seed=1, card=large)
        with serving(store) as (service, connected):
            wait_served(service, version)
            yield connected


def names() -> bytes:
    made = (b'"%x":0,' % number for number in count())
    return b"".join(next(made) for _ in range(BODY_BYTES // 12))


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", INFER])
@pytest.mark.parametrize("part", [b"[],", b"{},", b""], ids=["lists", "objects", "names"])
def test_body_of_countless_parts_is_refused_at_once(
    client: httpx.Client, path: str, part: bytes
) -> None:
    body = b"[" + part * (BODY_BYTES // 3) + b"[]]" if part else b"{" + names() + b'"":0}'
    headers = {"content-type": "application/json"}
    began_s = time.process_time()

    response = client.post(path, content=body, headers=headers)

    assert (response.status_code, "INVALID_INPUT" in response.text) == (400, True)
    assert "more parts" in response.text
    assert time.process_time() - began_s < IN_TIME_S


def test_body_beyond_what_the_model_takes_is_refused_unread(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with open_store(f"sqlite:{tmp_path_factory.mktemp('small')}") as store:
        version = publish(store, seed=1)
        with serving(store) as (service, client):
            wait_served(service, version)
            most = body_bounds(CARD, service.config.batch_images).size_bytes
            longer = client.post(INFER, content=b"0" * (most + 1))
            as_long = client.post(INFER, content=b"x" * most)

    assert most < 200_000
    assert (longer.status_code, longer.json()["error"][:14]) == (413, "BODY_TOO_LARGE")
    assert (as_long.status_code, as_long.json()["error"][:13]) == (400, "INVALID_INPUT")


@pytest.mark.parametrize("nested", [False, True])
def test_long_text_among_numbers_takes_no_more_memory_than_it_has(nested: bool) -> None:
    data: list[object] = ["x" * 200_000, *[1] * 1000]  # as one array of texts 800 MB
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8]}
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="data"):
            body = {"inputs": [{**tensor, "data": [data] if nested else data}]}
            parse_inference(body, Asked("digits", CARD, 4), NOTHING)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 1_000_000


def test_answer_of_countless_numbers_is_refused_before_it_is_computed() -> None:
    version = servable(DETECTOR)
    shape = [2, 3, 128, 128]
    tensor = {"name": "image", "datatype": "UINT8", "shape": shape, "data": [0] * (2 * 3 * 128**2)}
    asked = {"inputs": [tensor], "outputs": [{"name": "raw"}]}
    large = replace(version.card, classes=tuple(f"thing {n}" for n in range(MOST_ANSWERED // 200)))

    of = Asked("digits", version.card, 4)
    assert parse_inference(asked, of, NOTHING).outputs == (Output("raw"),)
    with pytest.raises(InvalidInput, match="send fewer images"):
        parse_inference(asked, replace(of, card=large), NOTHING)
    with pytest.raises(InvalidInput, match="named twice"):
        parse_inference({**asked, "outputs": [{"name": "raw"}] * 2}, of, NOTHING)
