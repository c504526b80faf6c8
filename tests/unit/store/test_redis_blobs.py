"""Blobs of several chunks, their ends and leftovers, as they lie in Redis."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import pytest
from contract.store.builders import a_commit, a_run, a_version, an_entry, an_update, digest_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis_process import RedisProcess, redis_process

from fedfleet.errors import ChecksumMismatch, NotFound, TransferInvalid
from fedfleet.store.open import open_store
from fedfleet.store.protocols import RunState, Store
from fedfleet.store.redis_partials import CHUNK_BYTES

DATA = random.Random(0).randbytes(3 * CHUNK_BYTES + 12345)
DIGEST = digest_of(DATA)
DAY_MS = 24 * 3600 * 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with redis_process(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def store(server: RedisProcess, namespace: str) -> Iterator[Store]:
    with open_store(server.url(namespace)) as store:
        yield store


@pytest.fixture
def console(server: RedisProcess) -> Iterator[Redis]:
    with Redis(port=server.port) as console:
        yield console


def keys(console: Redis, namespace: str, kind: str = "") -> list[bytes]:
    return sorted(console.keys(f"fedfleet:{{{namespace}}}:{kind}*"))


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    size=st.sampled_from([0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(DATA)]),
    cuts=st.lists(st.integers(0, len(DATA)), max_size=6),
    offset=st.integers(0, len(DATA)),
    length=st.none() | st.integers(0, len(DATA)),
)
@example(size=len(DATA), cuts=[CHUNK_BYTES, 2 * CHUNK_BYTES], offset=CHUNK_BYTES, length=0)
def test_any_part_of_any_upload_is_read(
    store: Store, size: int, cuts: list[int], offset: int, length: int | None
) -> None:
    data = DATA[:size]
    store.blobs.delete(digest_of(data))  # of an earlier example
    for cut in [*sorted(min(cut, size) for cut in cuts), size]:
        writer = store.blobs.writer(digest_of(data), size, "key")
        writer.write(data[writer.offset_bytes : cut])
    writer.commit()

    wanted = data[offset:] if length is None else data[offset : offset + length]
    assert store.blobs.read(digest_of(data), offset, length) == wanted
    assert bytes(store.blobs.view(digest_of(data))) == data


def test_put_and_commit_leave_the_same_keys_that_never_end(
    store: Store, console: Redis, namespace: str
) -> None:
    store.blobs.put(DATA)
    put = keys(console, namespace, "[bcp]*")
    store.blobs.delete(DIGEST)
    assert keys(console, namespace, "[bcp]*") == []

    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    writer.write(DATA)
    writer.commit()

    assert keys(console, namespace, "[bcp]*") == put
    assert len(put) == 5
    assert {console.ttl(name) for name in put} == {-1}


def test_what_was_given_up_ends_after_a_day(store: Store, console: Redis, namespace: str) -> None:
    store.blobs.writer(DIGEST, len(DATA), "key").write(DATA[:-1])

    (partial,) = keys(console, namespace, "partial")
    parts = keys(console, namespace, "part:")
    assert len(parts) == 4
    assert DAY_MS - 60_000 < console.pttl(partial) <= DAY_MS
    for part in parts:  # later, so that a part is there while its upload is
        assert 2 * DAY_MS - 60_000 < console.pttl(part) <= 2 * DAY_MS


def test_opening_keeps_all_parts_for_longer(store: Store, console: Redis, namespace: str) -> None:
    store.blobs.writer(DIGEST, len(DATA), "key").write(DATA[:-1])
    names = keys(console, namespace, "part")
    for name in names:
        console.pexpire(name, 60_000)

    store.blobs.writer(DIGEST, len(DATA), "key")

    assert all(console.pttl(name) > 60_000 for name in names)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("lost", range(4))
def test_an_upload_whose_parts_have_ended_is_not_committed(
    store: Store, console: Redis, namespace: str, lost: int, resumed: bool
) -> None:
    writer = store.blobs.writer(DIGEST, len(DATA), "key")
    writer.write(DATA)
    if resumed:
        writer = store.blobs.writer(DIGEST, len(DATA), "key")
    console.delete(keys(console, namespace, "part:")[lost])

    with pytest.raises(ChecksumMismatch):
        writer.commit()

    assert store.blobs.size(DIGEST) is None
    assert keys(console, namespace, "[bcp]*") == []


def test_an_upload_that_has_ended_is_not_gone_on_with(
    store: Store, console: Redis, namespace: str
) -> None:
    for name, kind in (("one", "partial"), ("two", "part:")):
        writer = store.blobs.writer(DIGEST, len(DATA), name)
        writer.write(DATA[:10])
        console.delete(*keys(console, namespace, kind))

        with pytest.raises(TransferInvalid):
            writer.write(DATA[10:])


def test_the_later_of_two_writers_closes_the_earlier_over_processes(
    store: Store, server: RedisProcess, namespace: str
) -> None:
    earlier = store.blobs.writer(DIGEST, len(DATA), "key")
    earlier.write(DATA[:1000])
    with open_store(server.url(namespace)) as other:
        later = other.blobs.writer(DIGEST, len(DATA), "key")
        assert later.offset_bytes == 1000
        for call in (lambda: earlier.write(DATA[1000:]), earlier.commit):
            with pytest.raises(TransferInvalid, match="took over"):
                call()
        later.write(DATA[1000:])
        later.commit()

    assert store.blobs.read(DIGEST) == DATA


def test_a_writer_that_was_overtaken_does_not_drop_what_came(
    store: Store, server: RedisProcess, namespace: str
) -> None:
    wrong = bytes(len(DATA))
    earlier = store.blobs.writer(DIGEST, len(DATA), "key")
    earlier.write(wrong)
    with open_store(server.url(namespace)) as other:
        later = other.blobs.writer(DIGEST, len(DATA), "key")
        with pytest.raises(ChecksumMismatch):
            earlier.commit()
        with pytest.raises(ChecksumMismatch):
            later.commit()
        assert other.blobs.writer(DIGEST, len(DATA), "key").offset_bytes == 0


def test_a_smaller_size_frees_what_was_there(store: Store, console: Redis, namespace: str) -> None:
    store.blobs.writer(DIGEST, len(DATA), "key").write(DATA)

    writer = store.blobs.writer(DIGEST, 5, "key")

    assert writer.offset_bytes == 0
    assert keys(console, namespace, "part:") == []


def test_a_key_that_begins_another_blob_drops_what_it_began(
    store: Store, console: Redis, namespace: str
) -> None:
    earlier = store.blobs.writer(DIGEST, len(DATA), "key")
    earlier.write(DATA[:-1])
    store.blobs.writer(DIGEST, len(DATA), "another").write(DATA[:-1])

    writer = store.blobs.writer(digest_of(b"other"), 5, "key")

    assert writer.offset_bytes == 0
    assert len(keys(console, namespace, "part:")) == 4
    with pytest.raises(TransferInvalid, match="took over"):
        earlier.write(DATA[-1:])
    writer.write(b"other")
    store.blobs.put(DATA)
    store.blobs.writer(DIGEST, len(DATA), "key")  # there is nothing to send
    with pytest.raises(TransferInvalid, match="took over"):
        writer.commit()
    assert store.blobs.writer(DIGEST, len(DATA), "another").offset_bytes == len(DATA)
    assert keys(console, namespace, "part") == []


def test_readers_see_all_of_a_blob_or_none_while_it_comes_and_goes(store: Store) -> None:
    ended = threading.Event()

    def come_and_go() -> None:
        for _ in range(15):
            store.blobs.put(DATA)
            store.blobs.delete(DIGEST)
        ended.set()

    def look() -> int:
        seen = 0
        while not ended.is_set():
            with suppress(NotFound):
                assert store.blobs.read(DIGEST) == DATA
                seen += 1
        return seen

    with ThreadPoolExecutor(3) as pool:
        looks = [pool.submit(look) for _ in range(2)]
        pool.submit(come_and_go).result()
        assert sum(one.result() for one in looks) > 0


def test_nothing_grows_but_the_records(store: Store, console: Redis, namespace: str) -> None:
    store.journal.create_run(a_run(rounds=100), an_entry())
    counts = []
    for round in range(1, 13):
        play(store, round)
        counts.append(len(keys(console, namespace)))
    # Of each round stays the version's blob (its size, its chunk, what it is there for) and the
    # updates' records; the run ends with the last memory freed.
    assert {b - a for a, b in pairwise(counts[1:])} == {4}

    store.journal.set_run_state("run-1", RunState.COMPLETED, an_entry())
    store.blobs.delete(digest_of(b"memory 12"))
    assert keys(console, namespace, "part") == []
    assert len(keys(console, namespace, "refs")) == len(keys(console, namespace, "blob")) == 12
    lanes = keys(console, namespace, "lane")
    assert len(lanes) <= 16
    assert all(0 < console.pttl(lane) <= DAY_MS for lane in lanes)


def play(store: Store, round: int) -> None:
    for name in "ab":
        data = f"{round} {name}".encode()
        store.blobs.put(data)
        update = an_update(data, round=round, assignment_id=f"{round}/{name}")
        store.journal.accept_update(update, an_entry())
    weights, memory = f"weights {round}".encode(), f"memory {round}".encode()
    for data in (weights, memory):
        store.blobs.put(data)
    store.commit_round(a_commit(a_version(round, weights), memory_digest=digest_of(memory)))
    for name in "ab":
        store.blobs.delete(digest_of(f"{round} {name}".encode()))
    store.blobs.delete(digest_of(f"memory {round - 1}".encode()))


def test_more_threads_than_connections_wait_for_each_other(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())

    with ThreadPoolExecutor(50) as pool:
        entries = list(pool.map(lambda n: store.journal.append(an_entry(kind=str(n))), range(400)))

    assert sorted(entry.event_id for entry in entries) == list(range(2, 402))
    assert store.journal.entries("run-1", after_id=1) == sorted(entries, key=lambda e: e.event_id)
