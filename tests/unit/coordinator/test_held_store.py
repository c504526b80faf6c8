from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.store.builders import a_commit, a_run, a_version, an_entry, digest_of

from fedfleet.errors import Conflict
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_coordinator.held_store import HeldStore
from fedfleet_coordinator.holds import Holds

WEIGHTS = digest_of(b"weights")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as store:
        yield store


def test_what_is_put_is_held_until_it_is_deleted(store: Store) -> None:
    holds = Holds()
    run, other = (HeldStore(store, holds, name) for name in ("run", "other"))

    assert run.blobs.put(b"weights") == WEIGHTS
    other.blobs.delete(WEIGHTS)
    assert run.blobs.read(WEIGHTS) == b"weights"
    other.blobs.put(b"weights")
    run.blobs.delete(WEIGHTS)
    assert bytes(other.blobs.view(WEIGHTS)) == b"weights"
    other.blobs.delete(WEIGHTS)

    assert store.blobs.size(WEIGHTS) is None
    assert not holds.is_held(WEIGHTS)


def test_what_a_writer_brings_is_held_from_its_beginning(store: Store) -> None:
    holds = Holds()
    run = HeldStore(store, holds, "run")
    writer = run.blobs.writer(WEIGHTS, 7, "key")
    assert holds.is_held(WEIGHTS)
    writer.write(b"weights")
    writer.commit()

    HeldStore(store, holds, "other").blobs.delete(WEIGHTS)

    assert run.blobs.size(WEIGHTS) == 7


def test_committed_version_is_held_by_its_record(store: Store) -> None:
    holds = Holds()
    run = HeldStore(store, holds, "run-1")
    run.journal.create_run(a_run(), an_entry())
    memory = run.blobs.put(b"memory")
    run.blobs.put(b"weights")

    with pytest.raises(Conflict):
        run.commit_round(a_commit(a_version(2), memory_digest=memory))
    assert holds.is_held(WEIGHTS)
    run.commit_round(a_commit(a_version(1), memory_digest=memory))

    assert not holds.is_held(WEIGHTS)
    assert holds.is_held(memory)
    with pytest.raises(Conflict, match="version 1"):
        run.blobs.delete(WEIGHTS)
