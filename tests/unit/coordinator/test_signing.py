from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import publish

from fedfleet.errors import SignatureInvalid
from fedfleet.identity.signing import Signer, verify
from fedfleet.store.open import open_store
from fedfleet.store.protocols import VersionRecord, manifest_of
from fedfleet.types import Kind, ParamSpec, Schema
from fedfleet_coordinator.signing import VersionSigner

RECORD = VersionRecord(
    model="digits",
    number=3,
    digest="ab" * 32,
    size_bytes=100,
    schema=Schema((ParamSpec("weight", (2, 3), Kind.TRAINABLE),)),
    run_id="run",
    round=3,
    parent=2,
    created_at_s=1.5,
    card={"classes": ["a", "b"]},
    metrics={"accuracy": 0.5},
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.text() | st.integers() | st.booleans()
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner), max_leaves=20
)


@pytest.fixture(scope="module")
def signer(tmp_path_factory) -> Signer:
    return Signer.open(tmp_path_factory.mktemp("ca"))


@given(metrics=st.dictionaries(st.text() | st.integers(), TREES, max_size=5))
def test_signature_holds_for_what_a_store_gives_back(signer, metrics):
    signed = VersionSigner(signer).sign(replace(RECORD, metrics=metrics, created_at_s=7))

    read = replace(signed, metrics=json.loads(json.dumps(signed.metrics)), created_at_s=7.0)
    verify(signer.public_pem, manifest_of(read), signed.signature)


def test_version_that_was_committed_and_read_is_the_one_that_was_signed(signer, tmp_path):
    with open_store(f"sqlite:{tmp_path}") as store:
        sign = VersionSigner(signer).sign
        publish(store, seed=1, sign=lambda version: sign(replace(version, metrics={10: {2: (1,)}})))
        read = store.registry.version("digits", 1)

    verify(signer.public_pem, manifest_of(read), read.signature)
    with pytest.raises(SignatureInvalid):
        verify(signer.public_pem, manifest_of(replace(read, round=2)), read.signature)


def test_signing_changes_nothing_but_the_signature(signer):
    signed = VersionSigner(signer).sign(RECORD)

    assert replace(signed, signature="") == RECORD
    assert VersionSigner(signer).sign(signed) == signed
