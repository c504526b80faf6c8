"""What a detector answers over REST: boxes as shares of the caller's image."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from detectors import DETECTOR, quadrant_state
from PIL import Image
from serving import publish, serving, wait_served, wait_until

from fedfleet.store.open import open_store
from fedfleet_inference_api import agreement, reading, v2_infer, v2_tensors


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service whose version sees a square in each bright quarter of an image."""
    with open_store(f"sqlite:{tmp_path_factory.mktemp('detector')}") as store:
        version = publish(store, 1, model="shapes", card=DETECTOR, state=quadrant_state())
        with serving(store) as (service, client):
            wait_served(service, version)
            yield client


def picture(quarter: int, *, orientation: int = 1) -> bytes:
    """A dark image of 400 by 200 with one bright quarter, counted by rows."""
    pixels = np.zeros((200, 400, 3), np.uint8)
    row, column = divmod(quarter, 2)
    pixels[100 * row : 100 * (row + 1), 200 * column : 200 * (column + 1)] = 255
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


def centre(detection: dict[str, dict[str, float]]) -> tuple[bool, bool]:
    """Whether a box's middle is in the right half, and in the lower one."""
    box = detection["box"]
    return box["left"] + box["right"] > 1, box["top"] + box["bottom"] > 1


@pytest.mark.parametrize("quarter", range(4))
def test_detector_answers_boxes_of_the_whole_image(detector, quarter):
    answer = detector.post("/predict", content=picture(quarter)).json()

    (found,) = answer["detections"]
    assert "predictions" not in answer
    assert answer["model"]["kind"] == "detection"
    assert (found["label"], found["index"]) == ("square", 1)
    assert found["score"] >= 0.4
    assert centre(found) == (quarter % 2 == 1, quarter >= 2)
    assert all(0 <= side <= 1 for side in found["box"].values())


def test_boxes_are_of_the_image_as_a_person_sees_it(detector):
    upside_down = picture(0, orientation=3)

    (found,) = detector.post("/predict", content=upside_down).json()["detections"]

    assert centre(found) == (True, True)


def test_score_decides_what_is_told(detector):
    def count(score: float) -> int:
        response = detector.post("/predict", params={"score": score}, content=picture(1))
        return len(response.json()["detections"])

    assert count(0.0) >= count(0.4) == 1
    refused = detector.post("/predict", params={"k": 3}, content=picture(1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "INVALID_INPUT")


def test_batch_and_v2_tell_the_same_boxes(detector):
    alone = [detector.post("/predict", content=picture(q)).json()["detections"] for q in (0, 3)]
    files = [("file", picture(quarter)) for quarter in (0, 3)]
    batch = detector.post("/predict/batch", files=files).json()
    images = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(picture(quarter))).resize((128, 128), 2))
            for quarter in (0, 3)
        ]
    ).transpose(0, 3, 1, 2)
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(images.shape),
        "data": images.ravel().tolist(),
    }
    body = {"inputs": [tensor], "outputs": [{"name": "detections"}, {"name": "raw"}]}
    v2 = detector.post("/v2/models/shapes/infer", json=body).json()
    model = detector.get("/v2/models/shapes").json()

    np.testing.assert_allclose(
        [list(one["detections"][0]["box"].values()) for one in batch["results"]],
        [list(one[0]["box"].values()) for one in alone],
        atol=1e-4,
    )
    rows = np.reshape(v2["outputs"][0]["data"], v2["outputs"][0]["shape"])
    assert rows[:, 0].tolist() == [0, 1]
    assert rows[:, 1].tolist() == [1, 1]
    np.testing.assert_allclose(
        rows[:, 3:], [list(one[0]["box"].values()) for one in alone], atol=1e-3
    )
    assert [output["name"] for output in model["outputs"]] == ["detections", "raw"]
    assert v2["outputs"][1]["shape"][1:] == model["outputs"][1]["shape"][1:]


def test_boxes_and_long_answers_are_made_off_the_event_loop_and_the_models_thread(
    tmp_path, monkeypatch
):
    threads: dict[str, set[str]] = {}

    def noted(name: str, work: Callable[..., object]) -> Callable[..., object]:
        def do(*given: object, **options: object) -> object:
            threads.setdefault(name, set()).add(threading.current_thread().name.partition("_")[0])
            return work(*given, **options)

        return do

    for module in (reading, v2_tensors, agreement):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "decode_answer", noted(name, module.decode_answer))
    monkeypatch.setattr(v2_infer, "respond", noted("respond", v2_infer.respond))
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, 3, 128, 128],
        "data": [200] * (3 * 128 * 128),
    }
    asked = {"inputs": [tensor], "outputs": [{"name": "raw"}, {"name": "detections"}]}
    course = {"serve_alias": "production", "canary_alias": "candidate", "shadow_share": 1.0}
    with open_store(f"sqlite:{tmp_path}") as store:
        for alias in ("production", "candidate"):
            publish(
                store, 1, model="shapes", card=DETECTOR, state=quadrant_state(), aliases=(alias,)
            )
        with serving(store, **course) as (service, client):
            wait_until(lambda: service.follower.following.candidate is not None)
            one = client.post("/predict", params={"score": 0}, content=picture(1))
            batch = client.post(
                "/predict/batch", params={"score": 0}, files=[("file", picture(1))] * 2
            )
            v2 = client.post("/v2/models/shapes/infer", json=asked)
            wait_until(lambda: client.get("/served").json()["candidate"]["mirrored"] == 4)
            told = client.get("/served").json()["candidate"]

    assert [one.status_code, batch.status_code, v2.status_code] == [200, 200, 200]
    assert told["agreement"] == 1.0
    assert threads == {
        "reading": {"decode"},
        "v2_tensors": {"decode"},
        "respond": {"decode"},
        "agreement": {"shadow"},
    }
