"""A version that fails callers is left at once, and they do not notice."""

from __future__ import annotations

import threading
from dataclasses import replace

import httpx
import numpy as np
from serving import CARD, png, publish, serving, wait_served, wait_until
from spiteful import TRIGGER, spiteful

from fedfleet.training.state import initial_state
from fedfleet_inference_api.service import InferenceService

IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}


def said(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json().get("model", {}).get("version", 0)


def test_version_that_gives_no_answer_is_rolled_back_and_its_caller_answered(store):
    first = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, first)
        second = publish(store, seed=2, state=spiteful())
        wait_served(service, second)
        before = client.post("/predict", **IMAGE)
        triggered = client.post("/predict", **TRIGGER)
        after = client.post("/predict", **IMAGE)
        served = client.get("/served").json()
        ready = client.get("/readyz").json()
        metrics = client.get("/metrics").text
        third = publish(store, seed=3)
        wait_served(service, third)
        last = client.post("/predict", **TRIGGER)

    assert [said(before), said(triggered), said(after)] == [(200, 2), (200, 1), (200, 1)]
    assert (served["model"]["version"], served["previous"]) == (1, None)
    (refused,) = served["refused"]
    assert (refused["version"], refused["code"]) == (2, "VERSION_INVALID")
    assert refused["was_served"] is True
    assert "digits version 2 (round 2) was rolled back: VERSION_INVALID" in ready["detail"]
    assert 'model_swaps_total{result="rolled_back"} 1.0' in metrics
    assert said(last) == (200, 3)


def test_caller_who_names_the_followed_alias_is_answered_by_the_one_before_too(store):
    first = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, first)
        wait_served(service, publish(store, seed=2, state=spiteful()))
        answer = client.post("/predict", params={"alias": "latest"}, **TRIGGER)

    assert said(answer) == (200, 1)


def test_batch_that_meets_such_a_version_is_answered_whole_by_the_one_before(store):
    first = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, first)
        wait_served(service, publish(store, seed=2, state=spiteful()))
        files = [("file", IMAGE["content"]), ("file", TRIGGER["content"])] * 4
        answer = client.post("/predict/batch", files=files).json()

    assert answer["model"]["version"] == 1
    assert all(set(result) == {"predictions"} for result in answer["results"])


def test_pinned_version_that_gives_no_answer_says_so(store):
    publish(store, seed=1, state=spiteful())
    second = publish(store, seed=2)
    with serving(store) as (service, client):
        wait_served(service, second)
        response = client.post("/predict", params={"version": 1}, **TRIGGER)
        served = client.get("/served").json()

    assert (response.status_code, response.json()["error"]["code"]) == (409, "VERSION_INVALID")
    assert served["refused"] == []


def test_only_version_that_gives_no_answer_is_a_503_and_answers_other_images(store):
    only = publish(store, seed=1, state=spiteful())
    with serving(store) as (service, client):
        wait_served(service, only)
        responses = [client.post("/predict", **parts) for parts in (TRIGGER, IMAGE, TRIGGER)]

    assert [r.status_code for r in responses] == [503, 200, 503]
    assert responses[0].json()["error"]["code"] == "NO_MODEL"


def test_swaps_and_rollbacks_under_load_fail_nobody(store):
    with serving(store) as (service, client):
        wait_served(service, publish(store, seed=0))
        done = threading.Event()
        answers: list[list[int]] = [[] for _ in range(4)]

        def ask(seen: list[int], parts: dict[str, object]) -> None:
            while not done.is_set():
                seen.append(client.post("/predict", **parts).status_code)

        threads = [
            threading.Thread(target=ask, args=(seen, parts))
            for seen, parts in zip(answers, [IMAGE, TRIGGER] * 2, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            for seed in range(5):
                bad = publish(store, seed=seed, state=spiteful())
                wait_until(lambda bad=bad: rolled_back(service, bad.number))
                wait_served(service, publish(store, seed=seed))
        finally:
            done.set()
            for thread in threads:
                thread.join()

    assert {status for seen in answers for status in seen} == {200}


def rolled_back(service: InferenceService, number: int) -> bool:
    return any(one.number == number for one in service.follower.following.refused)


def test_rollback_by_hand_and_following_again(store):
    first, second = publish(store, seed=1), None
    with serving(store) as (service, client):
        wait_served(service, first)
        none = client.post("/served/rollback")
        second = publish(store, seed=2)
        wait_served(service, second)
        back = client.post("/served/rollback").json()
        again = client.post("/served/rollback")
        third = publish(store, seed=3)
        held = said(client.post("/predict", **IMAGE))
        foreign = client.post("/served/follow", headers={"origin": "https://evil.example"})
        none_here = client.post("/served/follow", headers={"origin": "null"})
        ready = client.get("/readyz").json()["detail"]
        own = str(client.base_url).rstrip("/")
        follows = client.post("/served/follow", headers={"origin": own})
        wait_served(service, third)
        after = client.get("/served").json()

    assert (none.status_code, none.json()["error"]["code"]) == (409, "CONFLICT")
    assert (back["model"]["version"], back["previous"]["version"], back["is_held"]) == (1, 2, True)
    assert again.status_code == 409
    assert held == (200, 1)
    assert [foreign.status_code, none_here.status_code, follows.status_code] == [403, 403, 200]
    assert "rolled back by hand" in ready
    assert (after["model"]["version"], after["is_held"]) == (3, False)


def test_service_that_starts_with_an_unfit_newest_version_serves_the_last_good_one(store):
    good = publish(store, seed=1)
    state = initial_state(CARD, 2)
    publish(store, 2, state=replace(state, trainable=np.full_like(state.trainable, np.nan)))
    with serving(store) as (service, client):
        wait_served(service, good)
        ready = client.get("/readyz")
        answer = client.post("/predict", **IMAGE)
        served = client.get("/served").json()

    assert said(answer) == (200, 1)
    assert answer.json()["model"]["alias"] == ""
    assert ready.status_code == 200
    assert "digits version 2 could not be loaded: VERSION_INVALID" in ready.json()["detail"]
    assert [one["version"] for one in served["refused"]] == [2]
