"""Poisoned files in a version's place: refused by whoever reads them, and the last good is kept."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path

import pytest
from attacks.hostile import GOOD, RECIPE, Hostile, assignment_from, endured
from attacks.poisons import not_finite, poisons
from harness import initial_of
from serving import CARD, png, publish, serving, wait_served, wait_until

from fedfleet.identity.signing import Signer
from fedfleet.store.open import open_store
from fedfleet.training.state import initial_state
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_coordinator.signing import VersionSigner

IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}
MOST_BYTES = 150 << 20
# What a worker says of a file: of a size that none has, not the announced one, no file of this
# model, no model that learns.
CODES = ("LIMIT_EXCEEDED", "CHECKSUM_MISMATCH", "SCHEMA_MISMATCH", "TRAINING_FAILED")

# The inference service


def test_poisoned_versions_are_refused_and_the_last_good_one_is_served(tmp_path: Path) -> None:
    """Signed, as where the coordinator itself was made to publish them."""
    bad = {**poisons(initial_state(CARD, 1)), "NaN": not_finite(initial_state(CARD, 1))}
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_store(f"sqlite:{tmp_path}") as store:
        sign = VersionSigner(Signer.open(tmp_path / "ca")).sign
        first = publish(store, seed=1, sign=sign)
        with serving(store, store=f"sqlite:{tmp_path}") as (service, client):
            wait_served(service, first)
            answer = client.post("/predict", **IMAGE).json()["predictions"]
            for name, data in bad.items():
                number = publish(store, seed=1, data=data, sign=sign).number
                told = f"version {number} could not be loaded"
                wait_until(lambda: told in service.follower.following.failure)  # noqa: B023
                failure = service.follower.following.failure
                assert failure.isprintable(), name
                assert any(code in failure for code in ("SCHEMA_MISMATCH", "VERSION_INVALID")), name

            served = client.post("/predict", **IMAGE)
            assert (served.status_code, served.json()["model"]["version"]) == (200, 1)
            assert served.json()["predictions"] == answer
            good = publish(store, seed=2, sign=sign)
            wait_served(service, good)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb << 10 < MOST_BYTES


@pytest.mark.parametrize("swap", ["before it is served", "while it is served"])
def test_poisoned_files_in_place_of_a_versions_are_refused(swap: str, tmp_path: Path) -> None:
    bad = poisons(initial_state(CARD, 1))
    with open_store(f"sqlite:{tmp_path}") as store:
        sign = VersionSigner(Signer.open(tmp_path / "ca")).sign
        first = publish(store, seed=1, sign=sign)
        with serving(store, store=f"sqlite:{tmp_path}") as (service, client):
            wait_served(service, first)
            for number, (name, data) in enumerate(bad.items(), 2):
                version = publish(store, seed=number, aliases=(), sign=sign)
                (blob,) = tmp_path.glob(f"blobs/**/{version.digest}")
                replaced(blob, data)
                store.registry.set_alias("digits", "latest", version.number)
                told = f"version {version.number} could not be loaded"
                wait_until(lambda: told in service.follower.following.failure)  # noqa: B023
                failure = service.follower.following.failure
                codes = ("SIGNATURE_INVALID", "CHECKSUM_MISMATCH")
                assert any(code in failure for code in codes), (name, failure)
                if swap == "while it is served":
                    break
            if swap == "while it is served":
                (blob,) = tmp_path.glob(f"blobs/**/{first.digest}")
                replaced(blob, b"poison")

            served = client.post("/predict", **IMAGE)
            assert (served.status_code, served.json()["model"]["version"]) == (200, 1)


def replaced(blob: Path, data: bytes) -> None:
    blob.chmod(0o600)
    blob.write_bytes(data)


# A worker


@pytest.mark.slow
async def test_worker_refuses_poisoned_downloads_and_trains_from_the_next_good_one(
    tmp_path: Path,
) -> None:
    good = initial_of(RECIPE)
    bases = {**poisons(good), "NaN": not_finite(good), "other bytes": GOOD[::-1]}
    served = {hashlib.sha256(data).hexdigest(): data for data in bases.values()}
    served[hashlib.sha256(bases["other bytes"]).hexdigest()] = bytes(len(GOOD))
    given = [assignment_from(base, number) for number, base in enumerate(bases.values(), 2)]
    hostile = Hostile([pb.ConnectResponse(assignment=one) for one in given], served)

    after = await endured(tmp_path, hostile)

    assert after.header.base_digest == hashlib.sha256(GOOD).hexdigest()
    assert after.peak_bytes < 3 * MOST_BYTES
    for name, failure in zip(bases, hostile.failures, strict=True):
        assert failure.message.isprintable(), name
        assert failure.code in CODES, name
