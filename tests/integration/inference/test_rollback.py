"""A version that fails callers is left at once, and they do not notice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import torch
from serving import CARD, png, publish, serving, wait_served, wait_until
from spiteful import TRIGGER, spiteful

from fedfleet.models.card import ModelCard
from fedfleet.store.protocols import Blobs, VersionRecord
from fedfleet.training.state import initial_state
from fedfleet_inference_api import servable
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


@contextmanager
def short_of_memory(numbers: set[int]) -> Iterator[list[int]]:
    """Have modules of versions end as torch does where memory ends; yields who was built."""
    built: list[int] = []
    read, build, now = servable._read, servable.build, [0]

    def reading(blobs: Blobs, record: VersionRecord) -> bytes:
        now[0] = record.number
        return read(blobs, record)

    def building(card: ModelCard) -> torch.nn.Module:
        built.append(now[0])
        if now[0] in numbers:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] can't allocate memory")
        return build(card)

    servable._read, servable.build = reading, building
    try:
        yield built
    finally:
        servable._read, servable.build = read, build


def test_load_that_ends_as_torch_does_without_memory_is_a_refused_version(store):
    first = publish(store, seed=1)
    publish(store, seed=2, aliases=())
    with short_of_memory({2}) as built, serving(store) as (service, client):
        wait_served(service, first)
        pinned = [client.post("/predict", params={"version": 2}, **IMAGE) for _ in range(3)]
        builds = built.count(2)
        store.registry.set_alias("digits", "latest", 2)
        wait_until(lambda: service.follower.following.refused != ())
        ready = client.get("/readyz").json()["detail"]
        served = client.get("/served").json()
        metrics = client.get("/metrics").text

    assert [(one.status_code, one.json()["error"]["code"]) for one in pinned] == [
        (409, "VERSION_INVALID")
    ] * 3
    assert builds == 1
    assert "digits version 2" in pinned[0].json()["error"]["message"]
    assert "alloc_cpu" not in pinned[0].text  # of the process, and no business of callers
    assert "digits version 2 could not be loaded: VERSION_INVALID" in ready
    assert [(one["version"], one["code"]) for one in served["refused"]] == [(2, "VERSION_INVALID")]
    assert 'model_swaps_total{result="failed"} 0.0' not in metrics


def test_start_with_a_newest_version_that_memory_is_short_for_serves_the_one_before(store):
    good = publish(store, seed=1)
    publish(store, seed=2)
    with short_of_memory({2}), serving(store) as (service, client):
        wait_served(service, good)
        answer = client.post("/predict", **IMAGE)

    assert said(answer) == (200, 1)


# Where more than the newest version is bad.


def test_restart_finds_the_good_version_behind_two_that_fail_callers(store):
    good = publish(store, seed=1)
    publish(store, seed=2, state=spiteful())
    newest = publish(store, seed=3, state=spiteful())
    with serving(store) as (service, client):
        wait_served(service, newest)
        client.post("/predict", **TRIGGER)
        wait_until(lambda: service.served().record.number == 2)
        client.post("/predict", **TRIGGER)
        wait_served(service, good)
        answer = client.post("/predict", **TRIGGER)
        by_alias = client.post("/predict", params={"alias": "latest"}, **IMAGE).json()["model"]
        metrics = client.get("/metrics").text

    assert said(answer) == (200, 1)
    assert (by_alias["version"], by_alias["alias"]) == (1, "")
    assert 'model_swaps_total{result="rolled_back"} 2.0' in metrics


def test_answer_of_the_version_before_carries_no_alias_that_points_elsewhere(store):
    first = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, first)
        wait_served(service, publish(store, seed=2, state=spiteful()))
        answers = [client.post("/predict", **TRIGGER), client.post("/predict", **IMAGE)]
        answers.append(client.post("/predict", params={"alias": "latest"}, **IMAGE))
        store.registry.set_alias("digits", "latest", 1)
        wait_until(lambda: service.served().alias == "latest")
        moved = client.post("/predict", params={"alias": "latest"}, **IMAGE).json()["model"]

    assert [said(one) for one in answers] == [(200, 1)] * 3
    assert [one.json()["model"]["alias"] for one in answers] == [""] * 3
    assert (moved["version"], moved["alias"]) == (1, "latest")
