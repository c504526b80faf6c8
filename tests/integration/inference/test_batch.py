"""Several images in one request: answered by one version, each with its own answer or error."""

from __future__ import annotations

import base64
import threading

import httpx
import numpy as np
import pytest
from holding import decoders_held
from serving import PIXELS, png, publish, serving, wait_served, wait_until

IMAGES = [png(PIXELS), png(255 - PIXELS), png(PIXELS.T.copy())]


def files(images: list[bytes]) -> dict[str, object]:
    return {"files": [("file", (f"{place}.png", data)) for place, data in enumerate(images)]}


def as_json(images: list[bytes]) -> dict[str, object]:
    return {"json": {"images": [base64.b64encode(data).decode() for data in images]}}


def alone(client: httpx.Client, data: bytes, **query: object) -> object:
    return client.post("/predict", content=data, params=query).json()["predictions"]


@pytest.mark.parametrize("form", [files, as_json])
def test_batch_answers_each_image_as_if_it_came_alone(client, form):
    answer = client.post("/predict/batch", params={"k": 3}, **form(IMAGES)).json()

    assert set(answer) == {"results", "model", "latency_ms"}
    assert (answer["model"]["version"], answer["model"]["alias"]) == (1, "latest")
    for result, data in zip(answer["results"], IMAGES, strict=True):
        assert set(result) == {"predictions"}
        expected = alone(client, data, k=3)
        assert [p["index"] for p in result["predictions"]] == [p["index"] for p in expected]
        chances = [p["probability"] for p in result["predictions"]]
        # A batch may be summed in another order than one image.
        np.testing.assert_allclose(chances, [p["probability"] for p in expected], atol=1e-6)


@pytest.mark.parametrize("form", [files, as_json])
def test_bad_image_has_its_own_error_and_spoils_no_other(client, form):
    bad = [b"no image", IMAGES[0][:50], b""]

    response = client.post("/predict/batch", **form([IMAGES[0], *bad, IMAGES[1]]))

    results = response.json()["results"]
    assert response.status_code == 200
    assert [set(result) for result in results] == [
        {"predictions"},
        *([{"error"}] * 3),
        {"predictions"},
    ]
    assert [result["error"]["code"] for result in results[1:4]] == ["IMAGE_INVALID"] * 3


def test_text_that_is_no_base64_is_the_error_of_its_image(client):
    good = base64.b64encode(IMAGES[0]).decode()

    answer = client.post("/predict/batch", json={"images": [good, "no base64!", 5]}).json()

    assert "predictions" in answer["results"][0]
    assert [one["error"]["code"] for one in answer["results"][1:]] == ["INVALID_INPUT"] * 2


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ({"json": {"images": []}}, 400, "INVALID_INPUT"),
        ({"json": {"images": ["aGk="] * 33}}, 400, "INVALID_INPUT"),
        ({"json": {"image": "aGk="}}, 400, "INVALID_INPUT"),
        ({"json": {"images": "aGk="}}, 400, "INVALID_INPUT"),
        ({"json": ["aGk="]}, 400, "INVALID_INPUT"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "INVALID_INPUT"),
        (files(IMAGES * 11), 400, "INVALID_INPUT"),
        ({"files": [("file", (None, "a text"))]}, 400, "INVALID_INPUT"),
        ({"files": [("files", ("a", b"x"))]}, 400, "INVALID_INPUT"),
        ({"content": IMAGES[0], "headers": {"content-type": "image/png"}}, 415, "IMAGE_INVALID"),
        ({"json": {"images": ["aGk="]}, "params": {"k": 11}}, 400, "INVALID_INPUT"),
        ({"json": {"images": ["aGk="]}, "params": {"score": 0.5}}, 400, "INVALID_INPUT"),
        ({"json": {"images": ["aGk="]}, "params": {"version": 7}}, 404, "NOT_FOUND"),
    ],
)
def test_batch_as_a_whole_is_refused_with_a_stable_code(client, parts, status, code):
    response = client.post("/predict/batch", **parts)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_batch_takes_a_place_for_each_image(store):
    version = publish(store, seed=1)
    with serving(store, max_pending=4, batch_images=4) as (service, client):
        wait_served(service, version)
        most = client.post("/predict/batch", **files([IMAGES[0]] * 4))
        other = threading.Thread(target=client.post, args=("/predict",), kwargs={"content": png()})
        with decoders_held(service):
            other.start()
            wait_until(lambda: service.predictor.pending == 1)
            more = client.post("/predict/batch", **files([IMAGES[0]] * 4))
        other.join()
        after = client.post("/predict/batch", **files([IMAGES[0]] * 4))

    assert (more.status_code, more.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert more.headers["retry-after"] == "1"
    assert [most.status_code, after.status_code] == [200, 200]
