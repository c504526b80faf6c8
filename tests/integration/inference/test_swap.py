"""Versions are swapped while requests run; a version that is not fit leaves the old one serving."""

from __future__ import annotations

import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest
from holding import decoders_held
from serving import CARD, png, publish, serving, wait_served, wait_until

from fedfleet.models.config import MlpOptions, ModelConfig
from fedfleet.training.state import initial_state
from fedfleet.types import ModelState

IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}


def answered_by(client: httpx.Client) -> int:
    response = client.post("/predict", **IMAGE)
    assert response.status_code == 200
    return response.json()["model"]["version"]


def test_swaps_drop_no_request_and_every_answer_is_of_a_published_version(store):
    versions = [publish(store, seed=0)]
    answers: list[list[tuple[int, str]]] = [[] for _ in range(8)]
    done = threading.Event()

    with serving(store) as (service, client):
        wait_served(service, versions[0])

        def ask(seen: list[tuple[int, str]]) -> None:
            while not done.is_set():
                response = client.post("/predict", **IMAGE)
                body = response.json() if response.status_code == 200 else {}
                seen.append((response.status_code, body.get("model", {}).get("digest", "")))

        threads = [threading.Thread(target=ask, args=(seen,)) for seen in answers]
        for thread in threads:
            thread.start()
        try:
            for seed in range(1, 21):
                before = [len(seen) for seen in answers]
                versions.append(publish(store, seed=seed))
                wait_served(service, versions[-1])
                wait_until(
                    lambda before=before: any(
                        len(seen) > count for seen, count in zip(answers, before, strict=True)
                    )
                )
        finally:
            done.set()
            for thread in threads:
                thread.join()
        last = client.post("/predict", **IMAGE).json()
        previous = service.follower.following.previous

    flat = [item for seen in answers for item in seen]
    digests = [version.digest for version in versions]
    assert {status for status, _ in flat} == {200}
    assert {digest for _, digest in flat} <= set(digests)
    assert len({digest for _, digest in flat}) > 10
    for seen in answers:  # nobody was sent back to an older version
        order = [digests.index(digest) for _, digest in seen]
        assert order == sorted(order)
    assert last["model"]["digest"] == digests[-1]
    assert previous is not None
    assert previous.record.digest == digests[-2]


def test_alias_that_is_moved_back_serves_the_older_version(store):
    first, second = publish(store, seed=1), publish(store, seed=2)
    with serving(store) as (service, client):
        wait_served(service, second)
        store.registry.set_alias("digits", "latest", 1)
        wait_served(service, first)

        assert answered_by(client) == 1


def test_follower_takes_the_model_that_changed_last_unless_told_which(store):
    first = publish(store, seed=1, model="cats")
    with serving(store) as (service, _), serving(store, serve_model="cats") as (fixed, _):
        wait_served(service, first)
        other = publish(store, seed=2, model="dogs")
        wait_served(service, other)
        wait_served(fixed, first)
        newest = publish(store, seed=3, model="cats")
        wait_served(service, newest)
        wait_served(fixed, newest)


def test_follower_waits_for_the_alias_it_is_told_to_follow(store):
    publish(store, seed=1)
    with serving(store, serve_alias="production") as (_, client):
        assert client.get("/readyz").status_code == 503
        store.registry.set_alias("digits", "production", 1)
        wait_until(lambda: client.get("/readyz").status_code == 200)

        assert client.post("/predict", **IMAGE).json()["model"]["alias"] == "production"


def not_finite() -> ModelState:
    state = initial_state(CARD, 1)
    return replace(state, trainable=np.full_like(state.trainable, np.nan))


def other_classes() -> ModelState:
    model = ModelConfig(architecture="mlp", options=MlpOptions(hidden=(3,)))
    return initial_state(replace(CARD, model=model), 1)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda store: publish(store, 2, state=not_finite()), "VERSION_INVALID"),
        (lambda store: publish(store, 2, state=other_classes()), "SCHEMA_MISMATCH"),
        (lambda store: publish(store, 2, data=b"no safetensors"), "SCHEMA_MISMATCH"),
        (lambda store: publish(store, 2, card=FIVE_CHANNELS), "VERSION_INVALID"),
    ],
)
def test_version_that_is_not_fit_leaves_the_old_one_serving_and_says_why(store, make, code):
    first = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, first)
        make(store)
        wait_until(lambda: service.follower.following.failure != "")

        ready = client.get("/readyz")
        assert (ready.status_code, answered_by(client)) == (200, 1)
        assert "serving digits version 1" in ready.json()["detail"]
        assert f"digits version 2 could not be loaded: {code}: " in ready.json()["detail"]
        assert 'fedfleet_inference_model_swaps_total{result="failed"} 1.0' in (
            client.get("/metrics").text
        )

        third = publish(store, seed=3)
        wait_served(service, third)
        assert client.get("/readyz").json()["detail"] == "serving digits version 3 (round 3)"


FIVE_CHANNELS = replace(
    CARD, inputs=replace(CARD.inputs, channels=5, mean=(0.5,) * 5, std=(0.5,) * 5)
)


def test_version_whose_file_was_changed_on_disk_is_not_served(store, tmp_path):
    first = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, first)
        second = publish(store, seed=2, aliases=())
        (blob,) = (path for path in (tmp_path / "state").rglob(f"*{second.digest[4:]}*"))
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.chmod(0o600)
        blob.write_bytes(data)
        store.registry.set_alias("digits", "latest", 2)
        wait_until(lambda: service.follower.following.failure != "")

        assert answered_by(client) == 1
        assert "CHECKSUM_MISMATCH" in client.get("/readyz").json()["detail"]


def test_predict_refuses_more_than_may_wait(store):
    version = publish(store, seed=1)
    with serving(store, max_pending=1, batch_images=1) as (service, client):
        wait_served(service, version)
        first: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: first.append(client.post("/predict", **IMAGE)))
        with decoders_held(service):
            thread.start()
            wait_until(lambda: service.predictor.pending == 1)
            refused = client.post("/predict", **IMAGE)
        thread.join()
        after = client.post("/predict", **IMAGE)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert refused.headers["retry-after"] == "1"
    assert (first[0].status_code, after.status_code) == (200, 200)


def test_slow_uploads_hold_no_place_of_those_that_are_there(store):
    version = publish(store, seed=1)
    with serving(store, max_pending=1, batch_images=1) as (service, client):
        wait_served(service, version)
        release = threading.Event()

        def slow():
            yield IMAGE["content"][:10]
            release.wait()
            yield IMAGE["content"][10:]

        slowly: list[httpx.Response] = []
        threads = [
            threading.Thread(target=lambda: slowly.append(client.post("/predict", content=slow())))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: service.busy == 8)
        quick = [client.post("/predict", **IMAGE).status_code for _ in range(5)]
        release.set()
        for thread in threads:
            thread.join()

    assert quick == [200] * 5
    assert {response.status_code for response in slowly} <= {200, 503}
