"""Bodies of the V2 protocol that claim more than they hold take nothing from anybody."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from detectors import CLASSIFIER
from serving import publish, serving, wait_served
from v2_binary import HEADER, body_of

from fedfleet.store.open import open_store

INFER = "/v2/models/digits/infer"
BIG = 2**62
IMAGE_BYTES = 3 * 224 * 224
MOST_BYTES = 4_000_000  # for requests of a few hundred bytes; the largest tensor has 19 million


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service of a model whose requests are as large as a body may be."""
    large = replace(CLASSIFIER, inputs=replace(CLASSIFIER.inputs, height=224, width=224))
    with open_store(f"sqlite:{tmp_path_factory.mktemp('binary')}") as store:
        version = publish(store, seed=1, card=large)
        with serving(store) as (service, connected):
            wait_served(service, version)
            yield connected


def claim(shape: object, datatype: str, size: object, **fields: object) -> dict[str, object]:
    tensor = {"name": "image", "shape": shape, "datatype": datatype}
    return {"inputs": [{**tensor, "parameters": {"binary_data_size": size}, **fields}]}


@pytest.mark.parametrize(
    "value",
    [
        claim([32, 3, 224, 224], "FP32", 32 * IMAGE_BYTES * 4),
        claim([32, 3, 224, 224], "UINT8", 32 * IMAGE_BYTES),
        claim([BIG, 3, 224, 224], "UINT8", BIG),
        claim([BIG, BIG, BIG, BIG], "FP32", 8),
        claim([1, 3, 224, 224], "UINT8", BIG),
        claim([1, 3, 224, 224], "UINT8", 10**4000),
        claim([32, 3, 224, 224], "UINT8", False, data=[[[[0] * 224] * 3]]),
        claim([0, 3, 224, 224], "UINT8", 0),
        claim([1, 3, -224, -224], "UINT8", IMAGE_BYTES),
    ],
)
def test_small_body_takes_little_memory_whatever_it_claims(
    client: httpx.Client, value: dict[str, object]
) -> None:
    body, headers = body_of(value, bytes(8))
    tracemalloc.start()
    try:
        response = client.post(INFER, content=body, headers=headers)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (response.status_code, response.json()["error"][:14]) == (400, "INVALID_INPUT:")
    assert peak_bytes < MOST_BYTES


def test_json_in_front_of_binary_data_is_held_to_the_same_parts(client: httpx.Client) -> None:
    """A length in the header lets nobody past the bounds of a body without it."""
    text = json.dumps(claim([1, 3, 224, 224], "UINT8", IMAGE_BYTES)).encode()
    long = text[:-1] + b',"parameters":{' + b",".join([b'"x":[]'] * 100_000) + b"}}"
    body = long + bytes(IMAGE_BYTES)

    response = client.post(INFER, content=body, headers={HEADER: str(len(long))})

    assert (response.status_code, "more parts" in response.text) == (400, True)


def test_binary_body_beyond_the_limit_is_refused_unread(client: httpx.Client) -> None:
    body, headers = body_of(
        claim([32, 3, 224, 224], "FP32", 32 * IMAGE_BYTES * 4), bytes(16 * 1024 * 1024)
    )

    response = client.post(INFER, content=body, headers=headers)

    assert (response.status_code, response.json()["error"][:15]) == (413, "BODY_TOO_LARGE:")
