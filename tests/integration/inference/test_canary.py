"""A candidate beside the served version: answers a share, is shown a share, harms nobody."""

from __future__ import annotations

import threading

from serving import png, publish, serving, wait_served, wait_until
from spiteful import TRIGGER, spiteful

from fedfleet.store.protocols import Store, VersionRecord
from fedfleet_inference_api.canary import CANARY, falls_in
from fedfleet_inference_api.service import InferenceService

IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}
COURSE = {"serve_alias": "production", "canary_alias": "candidate"}


def two(store: Store, **candidate: object) -> VersionRecord:
    """Version 1 in production and a candidate."""
    publish(store, seed=1, aliases=("production",))
    return publish(store, seed=2, aliases=("candidate",), **candidate)


def wait_candidate(service: InferenceService, version: VersionRecord) -> None:
    def is_there() -> bool:
        candidate = service.follower.following.candidate
        return candidate is not None and candidate.record == version

    wait_until(is_there)


def test_canary_answers_its_share_and_the_same_requests_each_time(store):
    candidate = two(store)
    with serving(store, canary_share=0.5, **COURSE) as (service, client):
        wait_candidate(service, candidate)
        ids = [f"request-{number}" for number in range(40)]

        def ask(request_id: str, **query: object) -> tuple[int, str]:
            headers = {**IMAGE["headers"], "x-request-id": request_id}
            answer = client.post(
                "/predict", content=IMAGE["content"], headers=headers, params=query
            )
            assert answer.headers["x-request-id"] == request_id
            model = answer.json()["model"]
            return model["version"], model["alias"]

        asked = [ask(request_id) for request_id in ids]
        again = [ask(request_id) for request_id in ids]
        asked_by_name = {ask(request_id, alias="production") for request_id in ids[:5]}
        served = client.get("/served").json()
        metrics = client.get("/metrics").text
        store.registry.set_alias("digits", "production", 2)
        wait_served(service, candidate)
        promoted = {ask(request_id) for request_id in ids[:5]}

    expected = [
        (2, "candidate") if falls_in(0.5, CANARY, request_id) else (1, "production")
        for request_id in ids
    ]
    assert asked == again == expected
    assert len(set(expected)) == 2
    assert asked_by_name == {(1, "production")}
    assert served["candidate"]["model"]["version"] == 2
    assert (served["candidate"]["canary_share"], served["candidate"]["agreement"]) == (0.5, None)
    count = 2 * expected.count((2, "candidate"))
    assert f'canary_requests_total{{arm="candidate"}} {count}.0' in metrics
    assert promoted == {(2, "production")}


def test_canary_that_gives_no_answer_is_dropped_and_its_caller_answered(store):
    candidate = two(store, state=spiteful())
    with serving(store, canary_share=1.0, **COURSE) as (service, client):
        wait_candidate(service, candidate)
        before = client.post("/predict", **IMAGE).json()["model"]["version"]
        triggered = client.post("/predict", **TRIGGER)
        served = client.get("/served").json()

    assert (before, triggered.json()["model"]["version"]) == (2, 1)
    assert served["candidate"] is None
    assert [(one["version"], one["was_served"]) for one in served["refused"]] == [(2, True)]


def test_shadow_is_shown_what_callers_send_and_its_agreement_told(store):
    candidate = two(store)
    with serving(store, shadow_share=1.0, **COURSE) as (service, client):
        wait_candidate(service, candidate)
        answers = [client.post("/predict", **IMAGE).json() for _ in range(5)]
        pinned = client.post("/predict", params={"version": 2}, **IMAGE).json()
        wait_until(lambda: client.get("/served").json()["candidate"]["mirrored"] == 5)
        told = client.get("/served").json()["candidate"]
        metrics = client.get("/metrics").text

    first, other = (one["predictions"][0]["index"] for one in (answers[0], pinned))
    assert {one["model"]["version"] for one in answers} == {1}
    assert told["agreement"] == float(first == other)
    assert 'shadow_predictions_total{result="compared"} 5.0' in metrics
    assert "shadow_agreement_ratio_count 5.0" in metrics


def test_shadow_of_a_version_that_gives_no_answer_drops_it(store):
    candidate = two(store, state=spiteful())
    with serving(store, shadow_share=1.0, **COURSE) as (service, client):
        wait_candidate(service, candidate)
        answer = client.post("/predict", **TRIGGER)
        wait_until(lambda: service.follower.following.candidate is None)
        served = client.get("/served").json()

    assert (answer.status_code, answer.json()["model"]["version"]) == (200, 1)
    assert [one["version"] for one in served["refused"]] == [2]


def test_caller_is_answered_before_its_shadow_has_begun(store):
    candidate = two(store)
    with serving(store, shadow_share=1.0, **COURSE) as (service, client):
        wait_candidate(service, candidate)
        shown, release = threading.Event(), threading.Event()
        backend = service.follower.following.candidate.backend
        run = backend.run

        def held(images: object) -> object:
            shown.set()
            release.wait()
            return run(images)

        backend.run = held
        answer = client.post("/predict", **IMAGE)
        shown.wait()
        mirrored = client.get("/served").json()["candidate"]["mirrored"]
        release.set()
        wait_until(lambda: client.get("/served").json()["candidate"]["mirrored"] == 1)

    assert (answer.status_code, mirrored) == (200, 0)
