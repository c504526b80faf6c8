"""A server in cluster mode: it refuses what touches two slots, so no write does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from contract.store.builders import a_certificate, digest_of
from contract.store.writes import WRITES, everything, prepare
from redis import Redis
from redis.cluster import key_slot
from redis_process import redis_process

from fedfleet.errors import StoreUnavailable
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store

DATA = random.Random(0).randbytes(2_500_000)


def test_every_call_stays_in_one_slot(tmp_path: Path) -> None:
    with (
        redis_process(tmp_path, cluster_enabled="yes") as server,
        Redis(port=server.port) as console,
    ):
        console.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await_cluster(console)

        with open_store(server.url("my.fleet")) as store:
            prepare(store)
            for write in WRITES.values():
                write(store)
            store.access.add_certificate(a_certificate("d", name="pi-9"))
            store.access.add_certificate(a_certificate("e", name="pi-9"), renews="d")
            transfer(store)
            with store.own():
                store.audit.head()
            everything(store)

        slots = {key_slot(name) for name in console.scan_iter()}
        called = console.info("errorstats")
    assert slots == {key_slot(b"my.fleet")}
    assert "errorstat_CROSSSLOT" not in called


def test_a_namespace_on_another_server_of_the_cluster_is_told(tmp_path: Path) -> None:
    with (
        redis_process(tmp_path / "a", cluster_enabled="yes") as first,
        redis_process(tmp_path / "b", cluster_enabled="yes") as second,
        Redis(port=first.port) as console,
        Redis(port=second.port) as other,
    ):
        slot = key_slot(b"x")
        console.execute_command("CLUSTER", "ADDSLOTS", *(n for n in range(16384) if n != slot))
        other.execute_command("CLUSTER", "ADDSLOTS", slot)
        console.execute_command("CLUSTER", "MEET", "127.0.0.1", second.port, second.bus_port)
        await_cluster(console)

        with pytest.raises(StoreUnavailable, match="name that server"):
            open_store(first.url("x"))
        open_store(second.url("x")).close()


def await_cluster(console: Redis) -> None:
    while b"cluster_state:ok" not in console.execute_command("CLUSTER", "INFO").split(b"\r\n"):
        console.execute_command("WAIT", 1, 20)


def transfer(store: Store) -> None:
    """Every step of a blob's life."""
    digest = digest_of(DATA)
    for _ in range(2):
        writer = store.blobs.writer(digest, len(DATA), "key")
        writer.write(DATA[writer.offset_bytes :][:1_500_000])
        writer.close()
    writer = store.blobs.writer(digest, len(DATA), "key")
    writer.commit()
    store.blobs.writer(digest, len(DATA), "key").commit()
    assert store.blobs.read(digest, 10, 2_000_000) == DATA[10:2_000_010]
    store.blobs.delete(digest)
    store.blobs.put(DATA)
    store.blobs.put(DATA)
