"""Versions that are not, in every field, what the coordinator signed are refused."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from harness import ScriptedWorker, initial_of, running_coordinator, tiny_recipe, update_for
from serving import CARD, png, publish, serving, wait_served, wait_until

from fedfleet.identity.signing import Signer
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet.training.state import initial_state
from fedfleet.wire.weights import encode_state
from fedfleet_coordinator.signing import VersionSigner
from fedfleet_inference_api.service import InferenceService

IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Of the conftest's ``store``."""
    return tmp_path / "state"


@pytest.fixture
def sign(folder) -> Callable[[VersionRecord], VersionRecord]:
    return VersionSigner(Signer.open(folder / "ca")).sign


def alter(folder: Path, change: str, *values: object) -> None:
    """Change the store as somebody who can write to its folder does."""
    (database,) = folder.glob("*.db")
    connection = sqlite3.connect(database)
    with connection:
        assert connection.execute(change, values).rowcount == 1
    connection.close()


def assert_refused(service: InferenceService, client: httpx.Client, reason: str) -> None:
    """Version 2 is refused for its signature, and version 1 answers."""
    wait_until(lambda: service.follower.following.failure != "")
    ready, metrics = client.get("/readyz"), client.get("/metrics").text
    answer = client.post("/predict", **IMAGE).json()
    assert (ready.status_code, answer["model"]["version"]) == (200, 1)
    assert "serving digits version 1 (round 1); " in ready.json()["detail"]
    assert "digits version 2 could not be loaded: SIGNATURE_INVALID: " in ready.json()["detail"]
    assert reason in ready.json()["detail"]
    assert client.get("/served").json()["detail"] == ready.json()["detail"]
    assert 'refused_versions_total{code="SIGNATURE_INVALID"}' in metrics
    assert "fedfleet_inference_model_verified 1.0" in metrics


def other_weights(store: Store) -> str:
    return store.blobs.put(encode_state(initial_state(CARD, 99)))


CARD_TEXT = json.dumps({**CARD.to_json(), "classes": [f"digit {9 - n}" for n in range(10)]})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", other_weights),
        ("size_bytes", lambda _: 1),
        ("run_id", lambda _: "another"),
        ("round", lambda _: 7),
        ("parent", lambda _: None),
        ("created_at_s", lambda _: 5.0),
        ("card", lambda _: CARD_TEXT),
        ("metrics", lambda _: json.dumps({"accuracy": 0.99})),
        ("signature", lambda _: "0" * 128),
        ("signature", lambda _: "not hex"),
    ],
)
def test_version_with_an_altered_field_is_refused(store, folder, sign, field, value):
    first = publish(store, seed=1, sign=sign)
    with serving(store, store=f"sqlite:{folder}") as (service, client):
        wait_served(service, first)
        publish(store, seed=2, aliases=(), sign=sign)
        alter(folder, f"UPDATE versions SET {field} = ? WHERE number = 2", value(store))
        store.registry.set_alias("digits", "latest", 2)

        assert_refused(service, client, "is not what the signer signed")


def test_version_with_an_altered_schema_is_refused(store, folder, sign):
    first = publish(store, seed=1, sign=sign)
    with serving(store, store=f"sqlite:{folder}") as (service, client):
        wait_served(service, first)
        publish(store, seed=2, aliases=(), sign=sign)
        (text,) = sqlite3.connect(next(folder.glob("*.db"))).execute("SELECT params FROM schemas")
        changed = text[0].replace("weight", "height", 1)
        assert changed != text[0]
        alter(folder, "UPDATE schemas SET params = ?", changed)
        store.registry.set_alias("digits", "latest", 2)

        assert_refused(service, client, "is not what the signer signed")


@pytest.mark.parametrize("text", ["{", "", "[]", "[" * 100_000])
def test_record_that_is_damaged_leaves_the_old_version_and_one_line(
    store, folder, sign, caplog, text
):
    first = publish(store, seed=1, sign=sign)
    with serving(store, store=f"sqlite:{folder}") as (service, client):
        wait_served(service, first)
        publish(store, seed=2, aliases=(), sign=sign)
        alter(folder, "UPDATE versions SET card = ? WHERE number = 2", text)
        # The registry itself reads a version before it points an alias at it.
        alter(folder, "UPDATE aliases SET number = 2, revision = revision + 1")
        event = "(NULL, 'alias', 'digits', 2, 'latest', 0)"
        alter(folder, f"INSERT INTO registry_events VALUES {event}")
        wait_until(lambda: service.follower.following.failure != "")

        for _ in range(20):  # looks of the follower go on beside them
            assert client.post("/predict", **IMAGE).json()["model"]["version"] == 1
        listed, shown = client.get("/models"), client.get("/models/digits")
        detail = client.get("/readyz").json()["detail"]
        store.registry.set_alias("digits", "latest", 1)
        wait_until(lambda: service.follower.following.failure == "")
    for answer in (listed, shown):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "STORE_UNAVAILABLE"
        assert "a record in the store is damaged" in answer.json()["error"]["message"]
    assert "STORE_UNAVAILABLE: a record in the store is damaged" in detail
    failed = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.message for record in failed] == ["registry_unreadable"]


def test_older_version_that_is_dressed_as_a_newer_one_is_refused(store, folder, sign):
    first = publish(store, seed=1, sign=sign)
    with serving(store, store=f"sqlite:{folder}") as (service, client):
        wait_served(service, first)
        alter(
            folder,
            "INSERT INTO versions SELECT model, 2, digest, size_bytes, schema_digest, run_id, ?,"
            " parent, created_at_s, card, metrics, signature, lineage, retired_at_s FROM versions"
            " WHERE number = 1",
            1,
        )
        store.registry.set_alias("digits", "latest", 2)

        assert_refused(service, client, "is not what the signer signed")


def test_version_whose_file_was_altered_is_refused(store, folder, sign):
    first = publish(store, seed=1, sign=sign)
    with serving(store, store=f"sqlite:{folder}") as (service, client):
        wait_served(service, first)
        second = publish(store, seed=2, aliases=(), sign=sign)
        (blob,) = folder.rglob(f"*{second.digest[4:]}*")
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.chmod(0o600)
        blob.write_bytes(data)
        store.registry.set_alias("digits", "latest", 2)

        assert_refused(service, client, "what was signed is another file")


def test_version_of_another_coordinator_is_refused(store, folder, sign, tmp_path):
    other = VersionSigner(Signer.open(tmp_path / "other"))
    first = publish(store, seed=1, sign=sign)
    with serving(store, store=f"sqlite:{folder}") as (service, client):
        wait_served(service, first)
        publish(store, seed=2, sign=other.sign)

        assert_refused(service, client, "names the key of another coordinator")


def test_unsigned_version_is_refused_where_there_is_a_signer(store, folder, sign):
    first = publish(store, seed=1, sign=sign)
    with serving(store, store=f"sqlite:{folder}") as (service, client):
        wait_served(service, first)
        publish(store, seed=2)

        assert_refused(service, client, "FEDFLEET_SIGNER=none")

        third = publish(store, seed=3, sign=sign)
        wait_served(service, third)
        assert client.get("/readyz").json()["detail"] == "serving digits version 3 (round 3)"


async def test_version_of_a_real_coordinator_is_signed_and_checked(tmp_path):
    folder = tmp_path / "coordinator"
    recipe = tiny_recipe(workers=1, cohort=1)
    async with running_coordinator(folder) as running:
        run_id = await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        await worker.upload(
            update_for(await worker.assignment(), "worker-0", initial_of(recipe), 1.0)
        )
        await running.finished(run_id)
        worker.leave()

    with open_store(f"sqlite:{folder}") as store:
        (version,) = store.registry.versions("tiny")
        with serving(store, store=f"sqlite:{folder}") as (service, client):
            wait_served(service, version)
            metrics = client.get("/metrics").text
    assert len(version.signature) == 128
    assert "fedfleet_inference_model_verified 1.0" in metrics


def test_service_waits_for_a_signer_that_comes_after_it(store, folder):
    """As where the inference service is started before the coordinator's first start."""
    with serving(store, store=f"sqlite:{folder}") as (service, client):
        wait_until(lambda: service.follower.following.failure != "")
        early = client.get("/readyz")
        old = publish(store, seed=1)
        assert client.post("/predict", **IMAGE).json()["error"]["code"] == "NO_MODEL"
        signer = VersionSigner(Signer.open(folder / "ca"))
        title = f"digits version {old.number} could not be loaded: SIGNATURE_INVALID"
        wait_until(lambda: title in service.follower.following.failure)
        assert client.get("/readyz").status_code == 503
        second = publish(store, seed=2, sign=signer.sign)
        wait_served(service, second)
        assert "fedfleet_inference_model_verified 1.0" in client.get("/metrics").text

        (folder / "ca" / "signer.pem").unlink()  # which gives nobody leave
        publish(store, seed=3)
        wait_until(lambda: service.follower.following.failure != "")
        assert client.post("/predict", **IMAGE).json()["model"]["version"] == 2
    assert early.status_code == 503
    assert early.json()["detail"].startswith("SIGNATURE_INVALID: no signer.pem yet")


def test_removed_signer_and_signature_let_nothing_pass_after_a_restart(store, folder, sign, caplog):
    """What whoever can write to the store's folder tries."""
    first = publish(store, seed=1, sign=sign)
    with serving(store, store=f"sqlite:{folder}") as (service, _):
        wait_served(service, first)
    (folder / "ca" / "signer.pem").unlink()
    alter(folder, "UPDATE versions SET signature = '' WHERE number = 1")
    with serving(store, store=f"sqlite:{folder}") as (service, client):
        wait_until(lambda: service.follower.following.failure != "")
        answer, ready = client.post("/predict", **IMAGE), client.get("/readyz")

    assert (answer.status_code, ready.status_code) == (503, 503)
    assert answer.json()["error"]["code"] == "NO_MODEL"
    assert "no signer.pem yet" in ready.json()["detail"]
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ["not_prepared"]  # once, not at every look


def test_signed_version_is_refused_where_the_key_is_not(store, folder, sign, tmp_path):
    version = publish(store, seed=1, sign=sign)
    with serving(store, store=f"sqlite:{tmp_path / 'elsewhere'}") as (service, client):
        wait_until(lambda: service.follower.following.failure != "")
        ready = client.get("/readyz")
    with serving(store, signer=str(folder / "ca" / "signer.pem")) as (service, _):
        wait_served(service, version)
    with serving(store, signer="none") as (service, _):
        wait_served(service, version)

    assert ready.status_code == 503
    assert "name a copy of the coordinator's signer.pem" in ready.json()["detail"]


@pytest.mark.parametrize("text", [None, b"", b"no key", b"-----BEGIN PUBLIC KEY-----\n"])
def test_named_key_that_cannot_be_read_lets_nothing_pass(store, tmp_path, text):
    path = tmp_path / "key.pem"
    if text is not None:
        path.write_bytes(text)
    publish(store, seed=1)
    with serving(store, signer=str(path)) as (service, client):
        wait_until(lambda: service.follower.following.failure != "")
        ready = client.get("/readyz")

    assert ready.status_code == 503
    assert "SIGNATURE_INVALID" in ready.json()["detail"]
    assert str(tmp_path) not in ready.text
