"""What /predict answers to good and to bad requests, over real HTTP."""

from __future__ import annotations

import base64
import io
import socket
import struct
import zlib

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from serving import CARD, DIGITS, PIXELS, png, publish, serving, wait_served, wait_until

from fedfleet.data.shard import Examples
from fedfleet.models.catalog import build
from fedfleet.training.batches import Batches
from fedfleet.training.state import initial_state, load_state


def expected_probabilities(seed: int) -> np.ndarray:
    """What the training side computes for PIXELS with the weights of a seed."""
    module = build(CARD)
    load_state(module, initial_state(CARD, seed))
    examples = Examples(PIXELS[None, None].copy(), np.zeros(1, np.int64))
    batches = Batches(examples, CARD.inputs, 10, torch.device("cpu"))
    with torch.inference_mode():
        logits = module.eval()(batches.normalise(batches.take(slice(0, 1))[0]))
    return torch.softmax(logits.double(), dim=1)[0].numpy()


def multipart(data: bytes) -> dict[str, object]:
    return {"files": {"file": ("image.png", data, "image/png")}}


def raw(data: bytes, media_type: str = "application/octet-stream") -> dict[str, object]:
    return {"content": data, "headers": {"content-type": media_type}}


def as_json(data: bytes) -> dict[str, object]:
    return {"json": {"image": base64.b64encode(data).decode()}}


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an error answer, after a look at its form."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert "\n" not in body["error"]["message"]
    assert response.headers["content-type"] == "application/json"
    return response.status_code, body["error"]["code"]


@pytest.mark.parametrize("form", [multipart, raw, as_json])
def test_predict_answers_what_the_training_side_computes(client, shared_store, form):
    response = client.post("/predict", params={"k": 10}, **form(png()))

    answer = response.json()
    expected = expected_probabilities(seed=1)
    assert response.status_code == 200
    assert [p["index"] for p in answer["predictions"]] == list(np.argsort(-expected))
    for prediction in answer["predictions"]:
        assert prediction["label"] == DIGITS[prediction["index"]]
        assert prediction["probability"] == expected[prediction["index"]]
    version = shared_store.registry.version("digits", 1)
    assert answer["model"] == {
        "name": "digits",
        "version": 1,
        "round": 1,
        "digest": version.digest,
        "alias": "latest",
        "kind": "classification",
        "level": "a",
        "backend": "torch",
    }
    assert set(answer["latency_ms"]) == {"read", "decode", "queue", "forward", "total"}


@pytest.mark.parametrize(("query", "count"), [({}, 5), ({"k": 1}, 1), ({"k": 10}, 10)])
def test_predict_names_k_classes(client, query, count):
    answer = client.post("/predict", params=query, **raw(png(), "image/png")).json()

    chances = [p["probability"] for p in answer["predictions"]]
    assert len(chances) == count
    assert chances == sorted(chances, reverse=True)


def test_predict_names_all_classes_where_the_model_has_fewer_than_five(store):
    card = type(CARD)(model=CARD.model, inputs=CARD.inputs, classes=("cat", "dog"))
    version = publish(store, seed=2, card=card)
    with serving(store) as (service, client):
        wait_served(service, version)

        answer = client.post("/predict", **raw(png())).json()

    assert {p["label"] for p in answer["predictions"]} == {"cat", "dog"}


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_predict_reads_the_format_by_content(client, name):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(file, name)

    assert client.post("/predict", **raw(file.getvalue(), "image/wrong")).status_code == 200


def png_header(width: int, height: int) -> bytes:
    """The first chunks of a PNG that announces a size; no pixel of it exists."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(
    ("request_parts", "status", "code"),
    [
        (raw(b""), 415, "IMAGE_INVALID"),
        (raw(b"hello"), 415, "IMAGE_INVALID"),
        (raw(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), 415, "IMAGE_INVALID"),
        (raw(png()[:45]), 415, "IMAGE_INVALID"),
        (raw(png()[:50] + b"\0\0\0\0" + png()[54:]), 415, "IMAGE_INVALID"),
        (raw(png(), "text/plain"), 415, "IMAGE_INVALID"),
        (multipart(b"no image"), 415, "IMAGE_INVALID"),
        (as_json(b"no image"), 415, "IMAGE_INVALID"),
        (as_json(b""), 415, "IMAGE_INVALID"),
        (raw(png_header(6000, 4001)), 413, "IMAGE_TOO_LARGE"),
        (raw(png_header(60000, 60000)), 413, "IMAGE_TOO_LARGE"),
        (raw(b"{", "application/json"), 400, "INVALID_INPUT"),
        (raw(b"[" * 100_000, "application/json"), 400, "INVALID_INPUT"),
        (raw(b"\xff\xfe", "application/json"), 400, "INVALID_INPUT"),
        ({"json": ["image"]}, 400, "INVALID_INPUT"),
        ({"json": {"image": 5}}, 400, "INVALID_INPUT"),
        ({"json": {"image": "not base64!"}}, 400, "INVALID_INPUT"),
        ({"json": {"image": "aGk="[:-1]}}, 400, "INVALID_INPUT"),
        ({"json": {"image": "\u00e9"}}, 400, "INVALID_INPUT"),
        ({"json": {"image": "", "k": 3}}, 400, "INVALID_INPUT"),
        ({"json": {"url": "http://169.254.169.254/"}}, 400, "INVALID_INPUT"),
        ({"files": {"other": ("a.png", png())}}, 400, "INVALID_INPUT"),
        ({"files": {"file": (None, "a text, no file")}}, 400, "INVALID_INPUT"),
        ({"files": [("file", ("a", png())), ("file", ("b", png()))]}, 400, "INVALID_INPUT"),
        ({"files": {"file": ("a.png", png())}, "data": {"k": "3"}}, 400, "INVALID_INPUT"),
        (raw(b"x", "multipart/form-data"), 400, "INVALID_INPUT"),
        (raw(b"x", "multipart/form-data; boundary=y"), 400, "INVALID_INPUT"),
        (raw(b"--y\r\n\r\n\r\n--y--", "multipart/form-data; boundary=y"), 400, "INVALID_INPUT"),
        (raw(png()) | {"params": {"k": 0}}, 400, "INVALID_INPUT"),
        (raw(png()) | {"params": {"k": -1}}, 400, "INVALID_INPUT"),
        (raw(png()) | {"params": {"k": 11}}, 400, "INVALID_INPUT"),
        (raw(png()) | {"params": {"k": "all"}}, 400, "INVALID_INPUT"),
        (raw(png()) | {"params": {"k": "9" * 5000}}, 400, "INVALID_INPUT"),
        (raw(png()) | {"params": {"top": 3}}, 400, "INVALID_INPUT"),
        (raw(b"x" * 200_001), 413, "BODY_TOO_LARGE"),
        (multipart(b"x" * 200_001), 413, "BODY_TOO_LARGE"),
    ],
)
def test_predict_refuses_with_a_stable_code_and_lives_on(client, request_parts, status, code):
    response = client.post("/predict", **request_parts)

    assert refusal(response) == (status, code)
    assert client.post("/predict", **raw(png())).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "NOT_FOUND"),
        ("GET", "/page/../config.py", 404, "NOT_FOUND"),
        ("GET", "/models/unknown", 404, "NOT_FOUND"),
        ("GET", "/models?limit=0", 400, "INVALID_INPUT"),
        ("GET", "/models/digits?limit=many", 400, "INVALID_INPUT"),
        ("GET", "/predict", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/models/digits", 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_every_refusal_has_the_same_form(client, method, path, status, code):
    assert refusal(client.request(method, path)) == (status, code)


def test_body_limit_counts_a_body_that_announces_no_size(client):
    sent = []

    def endless():
        for _ in range(10_000):
            sent.append(1)
            yield b"x" * 1000

    headers = {"content-type": "application/octet-stream"}
    response = client.post("/predict", content=endless(), headers=headers)

    assert refusal(response) == (413, "BODY_TOO_LARGE")
    assert client.post("/predict", **raw(png())).status_code == 200


def test_body_limit_takes_a_body_of_just_the_limit(client):
    padded = png() + b"\0" * (200_000 - len(png()))

    assert client.post("/predict", **raw(padded)).status_code == 200


def test_predict_refuses_an_upload_that_takes_too_long(store):
    version = publish(store, seed=1)
    with serving(store, request_timeout_s=0.2) as (service, client):
        wait_served(service, version)

        def stalled():
            yield png()[:10]
            wait_until(lambda: service.busy == 1)
            wait_until(lambda: service.busy == 0)  # the service has given up

        response = client.post("/predict", content=stalled())

    assert refusal(response) == (504, "TIMED_OUT")


def test_predict_says_that_no_model_is_there_yet(store):
    with serving(store, serve_model="digits") as (service, client):
        response = client.post("/predict", **raw(png()))
        not_ready = client.get("/readyz")
        served = client.get("/served").json()
        version = publish(store, seed=1)
        wait_served(service, version)
        ready = client.get("/readyz")
        answer = client.post("/predict", **raw(png()))

    assert refusal(response) == (503, "NO_MODEL")
    assert "'latest' of model 'digits'" in response.json()["error"]["message"]
    assert response.headers["retry-after"] == "1"
    assert not_ready.status_code == 503
    assert not_ready.json()["ready"] is False
    assert served["model"] is None
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert answer.status_code == 200


def test_caller_that_leaves_early_frees_its_place_and_is_no_error_of_ours(store, caplog):
    version = publish(store, seed=1)
    with serving(store, max_pending=1, batch_images=1) as (service, client):
        wait_served(service, version)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as caller:
            caller.sendall(
                b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc"
            )
            wait_until(lambda: service.busy == 1)
        wait_until(lambda: service.busy == 0)

        assert client.post("/predict", **raw(png())).status_code == 200
        metrics = client.get("/metrics").text
    assert 'requests_total{route="/predict",status="aborted"} 1.0' in metrics
    assert "fedfleet_inference_errors_total{" not in metrics
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
