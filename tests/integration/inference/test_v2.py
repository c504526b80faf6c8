"""The KServe V2 protocol, over real HTTP."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from serving import CARD, PIXELS, png, publish, serving, wait_served

INFER = "/v2/models/digits/infer"
FLAT = PIXELS.ravel().tolist()
TENSOR = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": FLAT}


def test_infer_answers_what_predict_answers(client):
    said = client.post("/predict", content=png(), params={"k": 10}).json()
    shares = (PIXELS / 255).tolist()
    both = {
        "name": "image",
        "datatype": "FP32",
        "shape": [2, 1, 8, 8],
        "data": [[shares], [shares]],
    }

    one = client.post(INFER, json={"id": "a7", "inputs": [TENSOR]}).json()
    two = client.post(
        INFER, json={"inputs": [both], "outputs": [{"name": "logits"}, {"name": "probabilities"}]}
    ).json()

    expected = [0.0] * 10
    for prediction in said["predictions"]:
        expected[prediction["index"]] = prediction["probability"]
    (output,) = one["outputs"]
    assert (one["model_name"], one["model_version"], one["id"]) == ("digits", "1", "a7")
    assert one["parameters"]["model"] == said["model"]
    assert set(one["parameters"]["latency_ms"]) == set(said["latency_ms"])
    assert (output["name"], output["datatype"], output["shape"]) == (
        "probabilities",
        "FP32",
        [1, 10],
    )
    np.testing.assert_allclose(output["data"], expected, rtol=1e-6)
    assert "id" not in two
    assert [o["name"] for o in two["outputs"]] == ["logits", "probabilities"]
    assert [o["shape"] for o in two["outputs"]] == [[2, 10], [2, 10]]
    np.testing.assert_allclose(two["outputs"][1]["data"], expected * 2, rtol=1e-5)


def test_server_and_model_describe_themselves(client):
    server = client.get("/v2").json()
    model = client.get("/v2/models/digits").json()

    assert (server["name"], server["extensions"]) == ("fedfleet", ["binary_tensor_data"])
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert model == {
        "name": "digits",
        "versions": ["1"],
        "platform": "fedfleet_safetensors",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "logits", "datatype": "FP32", "shape": [-1, 10]},
        ],
    }
    assert client.get("/v2/models/digits/versions/1").json() == model
    for path in ("/v2/models/digits/ready", "/v2/models/digits/versions/1/ready"):
        assert client.get(path).json() == {"name": "digits", "ready": True}


@pytest.mark.parametrize(
    ("method", "path", "parts", "status", "code"),
    [
        ("POST", INFER, {"json": {}}, 400, "INVALID_INPUT"),
        ("POST", INFER, {"content": b"{"}, 400, "INVALID_INPUT"),
        ("POST", INFER, {"content": b"[" * 100_000}, 400, "INVALID_INPUT"),
        ("POST", INFER, {"json": {"inputs": [{**TENSOR, "shape": [33, 1, 8, 8]}]}}, 400, "INVALID"),
        (
            "POST",
            INFER,
            {
                "json": {"inputs": [TENSOR]},
                "headers": {"inference-header-content-length": "10"},
            },
            400,
            "INVALID_INPUT",
        ),
        ("POST", INFER, {"files": {"file": b"x"}}, 415, "IMAGE_INVALID"),
        ("POST", "/v2/models/cats/infer", {"json": {"inputs": [TENSOR]}}, 404, "NOT_FOUND"),
        ("POST", "/v2/models/digits/versions/9/infer", {"json": {}}, 404, "NOT_FOUND"),
        ("POST", "/v2/models/digits/versions/latest/infer", {"json": {}}, 404, "NOT_FOUND"),
        ("GET", "/v2/models/cats", {}, 404, "NOT_FOUND"),
        ("GET", "/v2/models/cats/ready", {}, 404, "NOT_FOUND"),
        ("GET", "/v2/models/digits/versions/9", {}, 404, "NOT_FOUND"),
        ("GET", "/v2/models/digits/versions/9/ready", {}, 404, "NOT_FOUND"),
        ("GET", "/v2/nothing", {}, 404, "NOT_FOUND"),
        ("GET", INFER, {}, 405, "METHOD_NOT_ALLOWED"),
        ("POST", INFER, {"content": b"x" * 200_001}, 413, "BODY_TOO_LARGE"),
    ],
)
def test_refusals_have_the_form_of_the_protocol(client, method, path, parts, status, code):
    response = client.request(method, path, **parts)

    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert response.json()["error"].startswith(code)
    assert "\n" not in response.json()["error"]


def test_refused_key_has_the_form_of_the_protocol(store):
    with serving(store, rest_auth="on") as (_, client):
        refused = client.post(INFER, json={"inputs": [TENSOR]})
        ready = client.get("/v2/health/ready")

    assert (refused.status_code, refused.json()["error"][:16]) == (401, "UNAUTHENTICATED:")
    assert (ready.status_code, ready.json()) == (503, {"ready": False})


def test_other_models_and_versions_are_loaded_when_they_are_asked_for(store):
    for seed in (1, 2):
        publish(store, seed, model="cats")
    version = publish(store, seed=3)
    with serving(store) as (service, client):
        wait_served(service, version)
        body = {"inputs": [TENSOR]}
        before = client.get("/v2/models/cats/versions/1/ready")
        older = client.post("/v2/models/cats/versions/1/infer", json=body).json()
        after = client.get("/v2/models/cats/versions/1/ready")
        newest = client.post("/v2/models/cats/infer", json=body).json()

    assert [before.status_code, after.status_code] == [503, 200]
    assert (older["model_name"], older["model_version"]) == ("cats", "1")
    assert older["parameters"]["model"]["alias"] == ""
    assert (newest["model_version"], newest["parameters"]["model"]["alias"]) == ("2", "latest")
    assert older["outputs"][0]["data"] != newest["outputs"][0]["data"]
    assert CARD.kind == "classification"


def test_model_that_is_not_served_is_described_and_ready_as_the_alias_says(store):
    publish(store, 1, model="cats")
    fewer = replace(CARD, classes=CARD.classes[:3])
    publish(store, 2, model="cats", card=fewer, aliases=())  # newer, and nobody points at it
    version = publish(store, seed=3)
    with serving(store) as (service, client):
        wait_served(service, version)
        described = client.get("/v2/models/cats").json()
        newest = client.get("/v2/models/cats/versions/2").json()
        before = client.get("/v2/models/cats/ready")
        answered = client.post("/v2/models/cats/infer", json={"inputs": [TENSOR]})
        after = client.get("/v2/models/cats/ready")

    assert described["outputs"][0]["shape"] == [-1, 10]
    assert answered.json()["outputs"][0]["shape"] == [1, 10]
    assert newest["outputs"][0]["shape"] == [-1, 3]
    assert described["versions"] == newest["versions"] == ["1", "2"]
    assert [before.status_code, after.status_code] == [503, 200]
    assert after.json() == {"name": "cats", "ready": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "\ud800"},
        {"parameters": {"sequence_\ud800": 1}},
        {"inputs": [{**TENSOR, "parameters": {"shared_memory_\udfff": 1}}]},
        {"inputs": [{**TENSOR, "\ud800": 1}]},
        {"outputs": [{"name": "\ud800"}]},
        {"\udfff": 1},
    ],
)
def test_text_that_has_no_utf8_is_refused_like_any_other(client, changes):
    body = json.dumps({"inputs": [TENSOR], **changes})

    answer = client.post(INFER, content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("INVALID_INPUT: ")
