"""Answers that get lost, and requests that come late: what is written happens once, or never."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
from answer_relay import AnswerRelay, answer_relay
from contract.store.builders import a_run, an_entry, digest_of
from contract.store.writes import WRITES, everything, prepare
from redis import Redis
from redis.exceptions import OutOfMemoryError
from redis_process import RedisProcess, redis_process

from fedfleet.errors import StoreFull, StoreUnavailable
from fedfleet.store import redis_records
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet.store.redis_errors import store_error

DATA = bytes(range(256)) * 5000  # two chunks


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with redis_process(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def relay(server: RedisProcess) -> Iterator[AnswerRelay]:
    with answer_relay(server.port) as relay:
        yield relay


@pytest.fixture
def store(relay: AnswerRelay) -> Iterator[Store]:
    with open_store(f"redis://{relay.address}/0?namespace={uuid.uuid4().hex}") as store:
        yield store


@pytest.mark.parametrize("name", WRITES)
def test_a_write_whose_answer_is_lost_happens_once(
    server: RedisProcess, relay: AnswerRelay, name: str
) -> None:
    """Whichever answer of the call it is: also where the server asks for a script, or a read."""
    with open_store(server.url(uuid.uuid4().hex)) as store:
        prepare(store)
        WRITES[name](store)
        wanted = everything(store)
    losses = []
    for after in range(7):
        namespace = uuid.uuid4().hex
        with (
            open_store(server.url(namespace)) as near,
            open_store(f"redis://{relay.address}/0?namespace={namespace}") as store,
            Redis(port=server.port) as console,
        ):
            prepare(near)
            console.script_flush()
            before = relay.lost_answers

            relay.lose_answers(1, after=after)
            WRITES[name](store)
            relay.lose_answers(0)

            losses.append(relay.lost_answers - before)
            assert everything(near) == wanted
    assert losses[0] == 1
    assert losses[-1] == 0


@pytest.mark.parametrize("name", ["append", "append_deed", "create_run", "add_token"])
def test_a_write_that_is_given_up_either_happened_or_never_will(
    store: Store, relay: AnswerRelay, name: str
) -> None:
    prepare(store)
    before = everything(store)
    relay.hold_requests()
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable):
        WRITES[name](store)
    assert 1.0 < time.monotonic() - began_s < 5.0
    assert relay.held_requests > 1

    relay.pass_requests()
    assert everything(store) == before
    relay.deliver()

    assert everything(store) == before
    WRITES[name](store)
    assert everything(store) != before


def test_a_late_write_does_not_undo_a_newer_one(store: Store, relay: AnswerRelay) -> None:
    prepare(store)
    WRITES["commit_round"](store)
    relay.hold_requests()
    with pytest.raises(StoreUnavailable):
        store.registry.set_alias("digits", "production", 1)

    relay.pass_requests()
    store.registry.set_alias("digits", "production", 2)
    relay.deliver()

    record = store.registry.aliases("digits")["production"]
    assert (record.number, record.revision) == (2, 1)


def test_a_write_that_happened_although_it_was_given_up_is_read(
    store: Store, relay: AnswerRelay, server: RedisProcess
) -> None:
    with open_store(server.url(uuid.uuid4().hex)) as other:  # has the server learn the script
        prepare(other)
        WRITES["accept_update"](other)
    prepare(store)
    before = len(store.journal.entries("run-1"))
    relay.lose_answers(10**6)
    with pytest.raises(StoreUnavailable):
        WRITES["accept_update"](store)

    relay.lose_answers(0)
    assert len(store.journal.updates("run-1", 2)) == 1
    assert WRITES["accept_update"](store) is False
    assert len(store.journal.entries("run-1")) == before + 1


def test_an_upload_goes_on_over_lost_answers(store: Store, relay: AnswerRelay) -> None:
    writer = store.blobs.writer(digest_of(DATA), len(DATA), "key")
    for start in range(0, len(DATA), 100_000):
        relay.lose_answers(1)
        writer.write(DATA[start : start + 100_000])
    relay.lose_answers(1)
    writer.commit()

    assert relay.lost_answers == 14
    assert store.blobs.read(digest_of(DATA)) == DATA


def test_an_upload_that_is_cut_is_resumed_where_the_server_has_it(
    store: Store, relay: AnswerRelay
) -> None:
    writer = store.blobs.writer(digest_of(DATA), len(DATA), "key")
    writer.write(DATA[:1000])
    relay.lose_answers(10**6)
    with pytest.raises(StoreUnavailable):
        writer.write(DATA[1000:3000])
    relay.lose_answers(0)
    writer.close()

    again = store.blobs.writer(digest_of(DATA), len(DATA), "key")
    assert again.offset_bytes == 3000
    again.write(DATA[3000:])
    relay.lose_answers(10**6)
    with pytest.raises(StoreUnavailable):
        again.commit()
    relay.lose_answers(0)

    held = store.blobs.writer(digest_of(DATA), len(DATA), "key")
    assert held.offset_bytes == len(DATA)
    held.commit()
    assert store.blobs.read(digest_of(DATA)) == DATA


def test_no_room_after_a_lost_answer_is_no_promise_that_nothing_was_written() -> None:
    error = OutOfMemoryError("OOM command not allowed when used memory > 'maxmemory'.")

    assert isinstance(store_error(error, ""), StoreFull)
    assert isinstance(store_error(error, "", unsure=True), StoreUnavailable)


def test_a_long_stream_is_read_in_pieces(
    server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_records, "AT_ONCE", 3)
    with open_store(server.url(uuid.uuid4().hex)) as store:
        store.journal.create_run(a_run(), an_entry())
        written = [store.journal.append(an_entry(kind=f"k{at}")) for at in range(8)]
        read = store.journal.entries("run-1")

        assert [entry.event_id for entry in read[1:]] == [entry.event_id for entry in written]
        for limit in (1, 3, 4, 7):
            found = store.journal.entries("run-1", after_id=written[0].event_id, limit=limit)
            assert found == written[1 : 1 + limit]
