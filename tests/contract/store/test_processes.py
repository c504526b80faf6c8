"""What a store promises when processes race, share it, or are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from contract.store import crash_child, race_child
from contract.store.builders import a_commit, a_run, a_version, an_entry, an_update, digest_of
from contract.store.children import ask, child, next_line
from contract.store.crash_child import payload
from contract.store.places import Place

from fedfleet.errors import Conflict
from fedfleet.store.protocols import Store


def commit_versions(store: Store, count: int) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"weights")
    for number in range(1, count + 1):
        store.commit_round(a_commit(a_version(number), aliases=()))


def test_set_alias_lets_exactly_one_of_two_processes_win(store: Store, place: Place) -> None:
    commit_versions(store, 2)

    with (
        child(race_child.__file__, place.url, "1") as first,
        child(race_child.__file__, place.url, "2") as second,
    ):
        for revision in range(40):
            for process in (first, second):
                ask(process, str(revision))
            answers = [next_line(first), next_line(second)]

            assert sorted(answers) == ["lost", "won"]
            record = store.registry.aliases("digits")["production"]
            assert (record.number, record.revision) == (1 + answers.index("won"), revision + 1)


def test_set_alias_lets_exactly_one_of_many_threads_win(store: Store) -> None:
    commit_versions(store, 8)
    barrier = threading.Barrier(8)

    def attempt(number: int) -> int:
        barrier.wait()
        try:
            return store.registry.set_alias("digits", "production", number, 0).number
        except Conflict:
            return 0

    with ThreadPoolExecutor(8) as pool:
        won = [number for number in pool.map(attempt, range(1, 9)) if number]

    assert [store.registry.aliases("digits")["production"].number] == won


def test_accept_update_counts_once_from_many_threads(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"payload")

    def accept(number: int) -> bool:
        update = an_update(assignment_id=str(number % 10))
        return store.journal.accept_update(update, an_entry(kind="update"))

    with ThreadPoolExecutor(8) as pool:
        accepted = list(pool.map(accept, range(40)))

    assert accepted.count(True) == 10
    assert len(store.journal.updates("run-1", 1)) == 10
    kinds = [entry.kind for entry in store.journal.entries("run-1")]
    assert kinds.count("update") == 10


def test_uploads_of_one_blob_from_many_threads_agree(store: Store) -> None:
    data = random.Random(1).randbytes(200_000)

    def upload(number: int) -> None:
        writer = store.blobs.writer(digest_of(data), len(data), str(number))
        for start in range(writer.offset_bytes, len(data), 10_000):
            writer.write(data[start : start + 10_000])
        writer.commit()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(16)))

    assert store.blobs.read(digest_of(data)) == data


def test_opening_an_empty_store_from_many_threads_at_once(place: Place) -> None:
    barrier = threading.Barrier(8)

    def open_and_read(number: int) -> list[str]:
        barrier.wait()
        with place.open() as store:
            store.journal.create_run(a_run(str(number)), an_entry(str(number)))
            return store.registry.models()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_and_read, range(8))) == [[]] * 8

    with place.open() as store:
        assert len(store.journal.runs()) == 8


def test_a_follower_sees_whole_rounds_while_another_process_commits(place: Place) -> None:
    with place.open() as store, child(crash_child.__file__, place.url):
        last_id = seen = 0
        while seen < 20:
            for event in store.registry.events(last_id):
                last_id = event.event_id
                if event.kind == "version":
                    seen += 1
                    assert event.number == seen
                    version = store.registry.version(event.model, event.number)
                    assert digest_of(store.blobs.read(version.digest)) == version.digest
                else:
                    assert event.number == seen


@pytest.mark.parametrize("seed", range(3))
def test_kill_loses_nothing_acknowledged_and_leaves_nothing_half_written(
    place: Place, seed: int
) -> None:
    rng = random.Random(seed)
    acknowledged: set[tuple[str, ...]] = set()

    for _ in range(5):
        with child(crash_child.__file__, place.url) as process:
            for _ in range(rng.randint(0, 9)):
                acknowledged.add(tuple(next_line(process).split()))
            with suppress(subprocess.TimeoutExpired):  # into the middle of whatever comes next
                process.wait(timeout=rng.uniform(0, 0.006))
            process.send_signal(signal.SIGKILL)
            assert process.stdout is not None
            acknowledged.update(tuple(line.split()) for line in process.stdout)
            assert process.wait() == -signal.SIGKILL
        with place.open() as store:
            check_whole(store)
            check_kept(store, acknowledged)

    assert any(words[0] == "round" for words in acknowledged)


def check_kept(store: Store, acknowledged: set[tuple[str, ...]]) -> None:
    last = store.journal.run("run-1").round
    for what, round, *name in acknowledged:
        if what == "round":
            assert int(round) <= last
        else:
            updates = store.journal.updates("run-1", int(round))
            assert name[0] in [update.assignment_id for update in updates]


def check_whole(store: Store) -> None:
    """Every round has all that belongs to it, every update its entry, every reference its bytes."""
    last = store.journal.run("run-1").round
    versions = store.registry.versions("digits")
    entries = store.journal.entries("run-1")
    assert [version.round for version in versions] == list(range(last, 0, -1))
    for version in versions:
        assert store.blobs.read(version.digest) == payload(version.round, "version")
    rounds = [entry.round for entry in entries if entry.kind == "round_committed"]
    assert rounds == list(range(1, last + 1))
    events = [(event.kind, event.number) for event in store.registry.events()]
    assert events == [(kind, n) for n in rounds for kind in ("version", "alias")]
    if last:
        assert store.registry.aliases("digits")["latest"].number == last
        assert store.registry.aliases("digits")["latest"].revision == last
        memory = store.blobs.read(store.journal.memory_digest("run-1"))
        assert memory == payload(last, "memory")
    updates = [update for r in range(1, last + 2) for update in store.journal.updates("run-1", r)]
    assert len(updates) == sum(entry.kind == "update" for entry in entries)
    assert {len(store.journal.updates("run-1", r)) for r in rounds} <= {3}
    for update in store.journal.updates("run-1", last + 1):
        assert store.blobs.read(update.digest) == payload(last + 1, update.assignment_id)
