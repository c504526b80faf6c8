"""Binary tensor data of the KServe V2 protocol, over real HTTP, byte by byte."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from detectors import DETECTOR
from holding import decoders_held, model_held
from serving import PIXELS, png, publish, serving, wait_served, wait_until
from v2_binary import HEADER, TYPES, answer_in, asked_with, body_of

INFER = "/v2/models/digits/infer"
IMAGES = np.stack([PIXELS, PIXELS.T, 255 - PIXELS])[:, None]
BODY, HEADERS = asked_with(IMAGES)


def ask(client, images=IMAGES, outputs=None, path=INFER, **fields):
    """The JSON and the tensors of an answer."""
    body, headers = asked_with(images, outputs, **fields)
    response = client.post(path, content=body, headers=headers)
    assert response.status_code == 200, response.text
    return answer_in(response.content, response.headers)


def test_binary_data_are_answered_as_json_and_as_predict_are(client):
    said, tensors = ask(client, id="a7", model_name="digits")
    json_tensor = {"name": "image", "shape": list(IMAGES.shape), "data": IMAGES.tolist()}
    as_json = client.post(INFER, json={"inputs": [{**json_tensor, "datatype": "UINT8"}]}).json()
    predicted = client.post("/predict", content=png(), params={"k": 10}).json()["predictions"]

    probabilities = tensors["probabilities"]
    assert (said["model_name"], said["model_version"], said["id"]) == ("digits", "1", "a7")
    assert probabilities.shape == (3, 10)
    np.testing.assert_allclose(
        probabilities.ravel(), as_json["outputs"][0]["data"], rtol=1e-5, atol=1e-7
    )
    for prediction in predicted:
        found = probabilities[0, prediction["index"]]
        assert found == pytest.approx(prediction["probability"], rel=1e-5)


def test_pixels_and_their_shares_of_light_are_answered_the_same(client):
    _, pixels = ask(client)
    _, shares = ask(client, (IMAGES / 255).astype("<f4"))

    assert (pixels["probabilities"] == shares["probabilities"]).all()


@pytest.mark.parametrize("mixed", [(True, False), (False, True), (True, True), (False, False)])
def test_each_output_comes_as_it_was_asked_for(client, mixed):
    wanted = dict(zip(("logits", "probabilities"), mixed, strict=True))

    said, tensors = ask(client, outputs=wanted, path="/v2/models/digits/versions/1/infer")

    assert [output["name"] for output in said["outputs"]] == ["logits", "probabilities"]
    assert {one["name"]: "data" not in one for one in said["outputs"]} == wanted
    spread = np.exp(tensors["logits"] - tensors["logits"].max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        tensors["probabilities"], spread / spread.sum(axis=1, keepdims=True), rtol=1e-5
    )


def test_json_request_may_ask_for_binary_data(client):
    tensor = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "UINT8"}
    request = {"inputs": [{**tensor, "data": PIXELS.ravel().tolist()}]}

    response = client.post(INFER, json={**request, "parameters": {"binary_data_output": True}})
    body, headers = body_of(request)
    with_header = client.post(INFER, content=body, headers=headers)

    assert response.headers["content-type"] == "application/octet-stream"
    said, tensors = answer_in(response.content, response.headers)
    assert said["outputs"][0]["parameters"] == {"binary_data_size": 40}
    assert with_header.headers["content-type"] == "application/json"
    _, plain = answer_in(with_header.content, with_header.headers)
    assert (tensors["probabilities"] == plain["probabilities"]).all()


def test_body_may_be_one_image_and_nothing_else(client):
    headers = {HEADER: "0", "content-type": "application/octet-stream"}

    response = client.post(INFER, content=PIXELS.tobytes(), headers=headers)
    said, tensors = answer_in(response.content, response.headers)

    _, alone = ask(client, IMAGES[:1])
    assert list(tensors) == ["probabilities"]
    assert (tensors["probabilities"] == alone["probabilities"]).all()
    assert "id" not in said


def test_detector_that_sees_nothing_answers_no_rows(store):
    version = publish(store, seed=1, model="shapes", card=DETECTOR)
    images = np.zeros((2, 3, 128, 128), np.uint8)
    with serving(store) as (service, client):
        wait_served(service, version)
        said, tensors = ask(client, images, path="/v2/models/shapes/infer")
        _, raw = ask(client, images, {"raw": True}, path="/v2/models/shapes/infer")

    assert tensors["detections"].shape == (0, 7)
    assert said["outputs"][0]["parameters"] == {"binary_data_size": 0}
    assert raw["raw"].shape[::2] == (2, 5 + len(DETECTOR.classes))


@pytest.mark.parametrize(
    ("body", "changed", "status", "code"),
    [
        (BODY[:-1], {}, 400, "INVALID_INPUT"),
        (BODY + b"x", {}, 400, "INVALID_INPUT"),
        (BODY, {HEADER: "7"}, 400, "INVALID_INPUT"),
        (BODY, {HEADER: str(len(BODY) + 1)}, 400, "INVALID_INPUT"),
        (BODY, {HEADER: "-1"}, 400, "INVALID_INPUT"),
        (BODY, {HEADER: "seven"}, 400, "INVALID_INPUT"),
        (BODY, {HEADER: "0"}, 400, "INVALID_INPUT"),
        (b"", {HEADER: "0"}, 400, "INVALID_INPUT"),
        (BODY, {"content-type": "image/png"}, 415, "IMAGE_INVALID"),
        (BODY, {"content-encoding": "gzip"}, 415, "IMAGE_INVALID"),
        (bytes(190_000), {HEADER: "0"}, 413, "BODY_TOO_LARGE"),
        (bytes(200_001), {HEADER: "0"}, 413, "BODY_TOO_LARGE"),
    ],
)
def test_refusals_have_the_form_of_the_protocol(client, body, changed, status, code):
    response = client.post(INFER, content=body, headers={**HEADERS, **changed})

    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert response.json()["error"].startswith(f"{code}: ")
    assert "\n" not in response.json()["error"]
    assert len(ask(client)[1]["probabilities"]) == 3


def test_octet_stream_without_the_header_is_refused_as_before(client):
    headers = {"content-type": "application/octet-stream"}

    response = client.post(INFER, content=BODY, headers=headers)

    assert (response.status_code, HEADER in response.json()["error"]) == (415, True)


def test_what_only_triton_has_is_not_found(client):
    """Its clients read the error as text of the protocol's form."""
    for path in ("config", "versions/1/config", "stats"):
        response = client.get(f"/v2/models/digits/{path}")
        assert (response.status_code, set(response.json())) == (404, {"error"})
        assert response.json()["error"].startswith("NOT_FOUND: ")


def test_models_metadata_is_what_a_request_is_made_of(client):
    model = client.get("/v2/models/digits").json()
    (described,) = model["inputs"]
    images = np.zeros([2 if side == -1 else side for side in described["shape"]], np.uint8)

    _, tensors = ask(client, images, {output["name"]: True for output in model["outputs"]})

    assert TYPES["u1"] == described["datatype"]
    for output in model["outputs"]:
        assert tensors[output["name"]].shape == (2, *output["shape"][1:])


def test_time_of_a_caller_is_its_own(store):
    version = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, version)
        with model_held(service):
            late = client.post(
                INFER, content=BODY, headers={**HEADERS, "x-request-timeout": "0.05"}
            )

    assert (late.status_code, late.json()["error"][:9]) == (504, "TIMED_OUT")


@pytest.mark.parametrize("held", [model_held, decoders_held])
def test_nothing_is_computed_for_who_has_left(store, held):
    version = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, version)
        runs: list[int] = []
        backend = service.served().backend
        run = backend.run

        def counted(images):
            runs.append(len(images))
            return run(images)

        backend.run = counted
        sent = {"host": "localhost", "content-length": str(len(BODY)), **HEADERS}
        lines = [f"POST {INFER} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        with held(service):
            address = (client.base_url.host, client.base_url.port)
            with socket.create_connection(address) as caller:
                caller.sendall("\r\n".join([*lines, "", ""]).encode() + BODY)
                wait_until(lambda: service.predictor.pending > 0)
            # The service hears of it on the same event loop that answers this.
            for _ in range(20):
                client.get("/livez")
        wait_until(lambda: service.busy == 0)
        gone = list(runs)
        ask(client)

    assert (gone, sum(runs)) == ([], 3)
