"""A namespace that a first release has written: its records have no lineage, and of the versions
that share a blob it noted one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from contract.store.builders import a_commit, a_run, a_version, an_entry, an_import, digest_of
from redis import Redis
from redis_process import RedisProcess, redis_process

from fedfleet.errors import Conflict, StoreUnavailable
from fedfleet.store.open import open_store
from fedfleet.store.protocols import RunState
from fedfleet.store.redis import SCHEMA_VERSION
from fedfleet.store.redis_keys import Keys

KEYS = Keys("tests")
DIGEST = digest_of(b"weights")


def write_version_1(server: RedisProcess, console: Redis) -> None:
    """Three versions with the same bytes, as schema 1 had them."""
    with open_store(server.url()) as store:
        store.journal.create_run(a_run(), an_entry())
        store.blobs.put(b"weights")
        for number in (1, 2, 3):
            store.commit_round(a_commit(a_version(number), aliases=()))
        store.registry.add(an_import(1, b"weights", model="other", lineage={}))
    for model, numbers in (("digits", (1, 2, 3)), ("other", (1,))):
        for number in numbers:
            record = json.loads(console.hget(KEYS.versions(model), str(number)))
            del record["lineage"]
            console.hset(KEYS.versions(model), str(number), json.dumps(record))
    console.delete(KEYS.refs(DIGEST))
    console.hset(KEYS.refs(DIGEST), "v", "version 1 of model digits")
    console.hset(KEYS.meta, "schema", 1)


def test_a_namespace_of_version_1_keeps_its_data_and_bytes_that_are_shared(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server, Redis(port=server.port) as console:
        write_version_1(server, console)

        with open_store(server.url()) as store:
            assert store.registry.versions("digits") == [a_version(n) for n in (3, 2, 1)]
            with pytest.raises(Conflict, match="version 1 of model digits"):
                store.blobs.delete(DIGEST)
            store.registry.retire("digits", 1, 50.5)
            assert store.blobs.read(DIGEST) == b"weights"
            fields = set(console.hkeys(KEYS.refs(DIGEST)))
            store.registry.retire("digits", 2, 50.5)
            store.blobs.put(b"else")
            for model, number in (("digits", 4), ("other", 2)):
                store.registry.add(an_import(number, b"else", model=model))
            store.journal.set_run_state("run-1", RunState.STOPPED, an_entry())
            store.registry.retire("digits", 3, 50.5)
            assert store.blobs.read(DIGEST) == b"weights"
            store.registry.retire("other", 1, 50.5)
            assert store.blobs.size(DIGEST) is None

        assert fields == {b"v version %d of model digits" % number for number in (2, 3)} | {
            b"v version 1 of model other"
        }
        assert int(console.hget(KEYS.meta, "schema")) == SCHEMA_VERSION == 3


def test_an_event_from_before_they_said_when_says_nothing_of_it(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server, Redis(port=server.port) as console:
        text = '{"kind":"alias","model":"digits","number":1,"alias":"latest"}'
        console.xadd(KEYS.events, {"event": text}, id="1-0")

        with open_store(server.url()) as store:
            (event,) = store.registry.events()

    assert (event.alias, event.at_s) == ("latest", 0.0)


def test_a_namespace_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server, Redis(port=server.port) as console:
        console.hset(KEYS.meta, "schema", SCHEMA_VERSION + 1)

        with pytest.raises(StoreUnavailable, match="newer release"):
            open_store(server.url())

        assert int(console.hget(KEYS.meta, "schema")) == SCHEMA_VERSION + 1
