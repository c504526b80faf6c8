"""The lock by which a dead owner is told from one that only stands still, and the fence."""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from contract.store import lease_child
from contract.store.builders import a_deed, a_run, an_entry
from contract.store.children import ask, child, next_line, stop

from fedfleet.errors import Conflict, LeaseLost, StateInUse, StoreUnavailable
from fedfleet.store.lease import LeaseRecord
from fedfleet.store.sqlite import SqliteStore
from fedfleet.store.sqlite_lease import SqliteLeases


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path) as store:
        yield store


@pytest.fixture
def leases(store: SqliteStore, tmp_path: Path) -> Iterator[SqliteLeases]:
    """Those of an owner."""
    leases = SqliteLeases(store.database, tmp_path)
    leases.claim(leases.read(), "owner", 60.0)
    yield leases
    leases.release()


Warnings = queue.Queue[str]


@pytest.fixture
def warnings() -> Iterator[Warnings]:
    """What lease.py warns of, as it comes."""
    messages = Warnings()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.put(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("fedfleet.store.lease")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("owner*"))


def test_a_killed_owner_is_replaced_without_waiting_for_its_lease(
    store: SqliteStore, tmp_path: Path
) -> None:
    with child(lease_child.__file__, f"sqlite:{tmp_path}", "600") as owner:
        ask(owner, "own 0")
        assert next_line(owner) == "owned 1"
        owner.kill()
        owner.wait()
        began_s = time.monotonic()

        with store.own() as lease:
            assert lease.record.token == 2
            assert time.monotonic() - began_s < 3.0


def test_a_stopped_owner_keeps_its_lock(store: SqliteStore, tmp_path: Path) -> None:
    leases = SqliteLeases(store.database, tmp_path)
    with child(lease_child.__file__, f"sqlite:{tmp_path}", "600") as owner:
        ask(owner, "own 0")
        assert next_line(owner) == "owned 1"
        stop(owner, store)
        assert not leases.is_dead(leases.read())

        owner.kill()
        owner.wait()
        assert leases.is_dead(leases.read())


def test_challengers_that_look_at_once_do_not_take_each_other_for_the_owner(
    store: SqliteStore, tmp_path: Path
) -> None:
    leases = SqliteLeases(store.database, tmp_path)
    (tmp_path / "owner-1.lock").touch()

    with (tmp_path / "owner-1.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert leases.is_dead(LeaseRecord(token=1, holder="gone", lasts_s=60.0))


def test_a_lock_file_that_is_missing_proves_nothing(
    leases: SqliteLeases, store: SqliteStore, tmp_path: Path
) -> None:
    challenger = SqliteLeases(store.database, tmp_path)
    assert not challenger.is_dead(leases.read())
    (tmp_path / "owner-1.lock").unlink()

    assert not challenger.is_dead(leases.read())


def test_a_claim_needs_the_lease_to_be_as_it_was_seen(
    leases: SqliteLeases, store: SqliteStore, tmp_path: Path
) -> None:
    challenger = SqliteLeases(store.database, tmp_path)
    seen = challenger.read()
    leases.renew()

    with pytest.raises(Conflict):
        challenger.claim(seen, "challenger", 60.0)

    assert leases.read().holder == "owner"
    store.audit.append(a_deed())  # the fence is still the owner's
    leases.renew()


def test_a_claim_is_not_made_while_another_has_the_next_lock(
    leases: SqliteLeases, store: SqliteStore, tmp_path: Path
) -> None:
    challenger = SqliteLeases(store.database, tmp_path)
    with (tmp_path / "owner-2.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="right now"):
            challenger.claim(challenger.read(), "challenger", 60.0)

    assert challenger.claim(challenger.read(), "challenger", 60.0).token == 2
    challenger.release()


def test_old_locks_are_removed_and_no_other_file_is(store: SqliteStore, tmp_path: Path) -> None:
    others = ["owner-x.lock", "owner.lock", "owner-9.lock", "owner-1.lock.bak"]
    for name in others:
        (tmp_path / name).touch()
    for token in range(1, 4):
        with child(lease_child.__file__, f"sqlite:{tmp_path}", "600") as owner:
            ask(owner, "own 0")
            assert next_line(owner) == f"owned {token}"
        expected = {f"owner-{n}.lock" for n in (token - 1, token) if n}
        assert set(locks(tmp_path)) == expected | set(others)

    with store.own():
        assert set(locks(tmp_path)) == {"owner-3.lock", "owner-4.lock", *others}
    assert set(locks(tmp_path)) == {"owner-3.lock", *others}


def test_a_lock_is_not_handed_to_programs_that_the_owner_starts(
    leases: SqliteLeases, tmp_path: Path
) -> None:
    held = {path.resolve(): int(path.name) for path in Path("/proc/self/fd").iterdir()}

    assert not os.get_inheritable(held[tmp_path.resolve() / "owner-1.lock"])


def test_a_claim_that_cannot_be_written_leaves_the_lease_and_the_lock(
    tmp_path: Path,
) -> None:
    with SqliteStore(tmp_path, busy_timeout_s=0.02) as store:
        other = sqlite3.connect(tmp_path / "fedfleet.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.own().__enter__()
        other.execute("ROLLBACK")
        other.close()

        store.journal.create_run(a_run(), an_entry())  # as one that never owned
        with store.own() as lease:
            assert lease.record.token == 1


def test_a_challenger_that_cannot_write_begins_again(tmp_path: Path, warnings: Warnings) -> None:
    other = sqlite3.connect(tmp_path / "fedfleet.db", isolation_level=None, check_same_thread=False)
    with (
        SqliteStore(tmp_path) as owner,
        SqliteStore(tmp_path, busy_timeout_s=0.02) as store,
        ThreadPoolExecutor(1) as pool,
    ):
        leases = SqliteLeases(owner.database, tmp_path)
        leases.claim(leases.read(), "owner", 0.2)  # and never renews
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(store.own(wait_s=None).__enter__)
        for _ in range(2):
            assert warnings.get(timeout=20.0) == "lease_not_seen"
        other.execute("ROLLBACK")

        assert waiting.result().record.token == 2
        leases.release()
    other.close()


def test_every_write_of_the_owner_is_a_sign_of_life(store: SqliteStore, tmp_path: Path) -> None:
    challenger = SqliteLeases(store.database, tmp_path)
    with store.own(lasts_s=600.0):
        before = challenger.read()
        for _ in range(3):
            store.audit.append(a_deed())

        assert challenger.read().beat == before.beat + 3


def test_a_write_of_somebody_else_is_none(store: SqliteStore, tmp_path: Path) -> None:
    challenger = SqliteLeases(store.database, tmp_path)
    with store.own(lasts_s=600.0), SqliteStore(tmp_path) as other:
        before = challenger.read()
        other.audit.append(a_deed())

        assert challenger.read() == before


def test_an_own_that_is_over_does_not_give_back_the_lease_of_the_next(
    leases: SqliteLeases, store: SqliteStore, tmp_path: Path
) -> None:
    second = SqliteLeases(store.database, tmp_path)
    second.claim(second.read(), "second", 60.0)

    with pytest.raises(LeaseLost):
        leases.renew()
    leases.release()
    store.audit.append(a_deed())

    assert second.read().holder == "second"
    second.release()


def test_a_lost_lease_keeps_a_blob_from_being_deleted(
    leases: SqliteLeases, store: SqliteStore, tmp_path: Path
) -> None:
    digest = store.blobs.put(b"data")
    with SqliteStore(tmp_path) as other:
        thief = SqliteLeases(other.database, tmp_path)
        thief.claim(thief.read(), "thief", 60.0)

        with pytest.raises(LeaseLost, match="nothing was written"):
            store.blobs.delete(digest)
        assert store.blobs.read(digest) == b"data"
        other.blobs.delete(digest)
        thief.release()


def test_a_claim_of_an_unusable_folder_says_so(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "owner-1.lock").mkdir()

    with pytest.raises(StoreUnavailable, match="Is a directory"):
        store.own().__enter__()

    (tmp_path / "owner-1.lock").rmdir()
    with store.own() as lease, pytest.raises(StateInUse):
        assert lease.record.token == 1
        store.own(lasts_s=1.0).__enter__()
