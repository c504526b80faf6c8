"""Versions that callers ask for by number or alias, beside the one that is served."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from serving import CARD, png, publish, serving, wait_served, wait_until

from fedfleet.identity.signing import Signer
from fedfleet.training.state import initial_state
from fedfleet_coordinator.signing import VersionSigner

IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}


def test_pinned_version_answers_beside_the_served_one(store):
    versions = [publish(store, seed=seed) for seed in range(4)]
    store.registry.set_alias("digits", "production", 2)
    with serving(store, pinned_versions=1) as (service, client):
        wait_served(service, versions[-1])

        def model(**query: object) -> tuple[int, str]:
            answer = client.post("/predict", params=query, **IMAGE).json()["model"]
            return answer["version"], answer["alias"]

        asked = [
            model(),
            model(version=1),
            model(alias="production"),
            model(version=4),
            model(alias="latest"),
            model(version=1),
        ]
        kept = list(service.pinned._kept)
        batch = client.post(
            "/predict/batch", params={"version": 3}, files=[("file", png())] * 2
        ).json()

    assert asked == [(4, "latest"), (1, ""), (2, "production"), (4, ""), (4, "latest"), (1, "")]
    assert kept == ["digits version 1"]  # the last one that was asked for
    assert batch["model"]["version"] == 3


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"version": 9}, 404, "NOT_FOUND"),
        ({"version": 10**17}, 404, "NOT_FOUND"),
        ({"version": 10**18}, 400, "INVALID_INPUT"),
        ({"version": 0}, 400, "INVALID_INPUT"),
        ({"alias": "nobody"}, 404, "NOT_FOUND"),
        ({"alias": "a b"}, 400, "INVALID_INPUT"),
        ({"version": 1, "alias": "latest"}, 400, "INVALID_INPUT"),
        ({"score": 0.5}, 400, "INVALID_INPUT"),
    ],
)
def test_pin_that_leads_nowhere_is_refused(client, query, status, code):
    response = client.post("/predict", params=query, **IMAGE)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_retired_and_unfit_versions_are_told_apart(store):
    for seed in (1, 2):
        publish(store, seed)
    state = initial_state(CARD, 3)
    publish(store, 3, state=replace(state, trainable=np.full_like(state.trainable, np.nan)))
    version = publish(store, 4)
    store.registry.retire("digits", 1, time.time())
    with serving(store) as (service, client):
        wait_served(service, version)
        loads = service.metrics.load_s
        retired = client.post("/predict", params={"version": 1}, **IMAGE)
        unfit = [client.post("/predict", params={"version": 3}, **IMAGE) for _ in range(2)]
        listed = client.get("/models/digits").json()["versions"]

    assert (retired.status_code, retired.json()["error"]["code"]) == (410, "VERSION_RETIRED")
    assert [r.status_code for r in unfit] == [409, 409]
    assert unfit[0].json() == unfit[1].json()  # it was not tried again
    assert unfit[0].json()["error"]["code"] == "VERSION_INVALID"
    assert [v["retired_at"] is None for v in listed] == [True, True, True, False]
    assert loads is service.metrics.load_s


def test_pinned_version_has_to_be_signed_too(store, tmp_path):
    sign = VersionSigner(Signer.open(tmp_path / "state" / "ca")).sign
    publish(store, seed=1)
    version = publish(store, seed=2, sign=sign)
    with serving(store, store=f"sqlite:{tmp_path / 'state'}") as (service, client):
        wait_served(service, version)
        response = client.post("/predict", params={"version": 1}, **IMAGE)

    assert (response.status_code, response.json()["error"]["code"]) == (409, "SIGNATURE_INVALID")


def test_callers_of_one_version_wait_for_one_load_and_those_who_leave_stop_it_for_nobody(store):
    publish(store, seed=1)
    version = publish(store, seed=2)
    with serving(store) as (service, client):
        wait_served(service, version)
        loads: list[int] = []
        release, load = threading.Event(), service.pinned._load

        def slow(record: object, alias: str) -> object:
            loads.append(1)
            release.wait()
            return load(record, alias)

        service.pinned._load = slow
        impatient = client.post(
            "/predict", params={"version": 1}, headers={"x-request-timeout": "0.1"}, content=png()
        )
        answers: list[int] = []

        def ask() -> None:
            answers.append(client.post("/predict", params={"version": 1}, **IMAGE).status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: service.busy == 4)
        served = client.post("/predict", **IMAGE)  # meanwhile
        release.set()
        for thread in threads:
            thread.join()

    assert (impatient.status_code, served.status_code) == (504, 200)
    assert (answers, len(loads)) == ([200] * 4, 1)


def test_no_version_is_loaded_on_demand_where_the_settings_say_so(store):
    publish(store, seed=1)
    version = publish(store, seed=2)
    with serving(store, pinned_versions=0) as (service, client):
        wait_served(service, version)
        refused = client.post("/predict", params={"version": 1}, **IMAGE)
        served = client.post("/predict", params={"version": 2}, **IMAGE)

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "INVALID_INPUT")
    assert served.status_code == 200


def test_answer_bears_the_alias_that_was_asked_for_only_where_it_points_there(store):
    good = publish(store, seed=1)
    state = initial_state(CARD, 2)
    publish(store, 2, state=replace(state, trainable=np.full_like(state.trainable, np.nan)))
    with serving(store) as (service, client):
        wait_served(service, good)
        instead = client.post("/predict", params={"alias": "latest"}, **IMAGE).json()["model"]
        third = publish(store, seed=3)
        wait_served(service, third)
        after = client.post("/predict", params={"alias": "latest"}, **IMAGE).json()["model"]

    assert (instead["version"], instead["alias"]) == (1, "")
    assert (after["version"], after["alias"]) == (3, "latest")
