"""What the stores take for their work: SQLite in a folder, and Redis beside it on loopback.

Both have on the disk what they acknowledge: SQLite by its synchronous=FULL, Redis by its
appendfsync always, in folders of one file system. A line each: a blob of 50 MB put and read, 1000
updates accepted (by one thread, and by eight as the coordinator has them), and the commit of a
round. Without redis-server nothing is compared.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from processes import process
from record import record

from fedfleet.errors import StoreUnavailable
from fedfleet.store.open import open_store
from fedfleet.store.protocols import (
    Entry,
    RoundCommit,
    RunRecord,
    RunState,
    Store,
    UpdateRecord,
    VersionRecord,
)
from fedfleet.types import Kind, ParamSpec, Schema

BLOB_BYTES = 50_000_000
UPDATES = 1000
ROUNDS = 200
TIMES = 5
THREADS = 8
PATIENCE_S = 30.0
SCHEMA = Schema(tuple(ParamSpec(f"layer.{i}", (64, 64), Kind.TRAINABLE) for i in range(20)))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure("sqlite", f"sqlite:{folder / 'sqlite'}")
        if shutil.which("redis-server") is None:
            record("store_redis", None, reason="redis-server is not installed here")
            return
        with redis(folder / "redis") as url:
            measure("redis", url)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A server that writes to its disk before it answers; its URL."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes"}
    settings |= {"appendfsync": "always", "save": ""}
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    url = f"redis://127.0.0.1:{port}/0"
    with process(("redis-server", *words), folder / "redis.log"):
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                open_store(url).close()
                break
            except StoreUnavailable:
                if time.monotonic() > until_s:
                    raise
        yield url


def measure(kind: str, url: str) -> None:
    with open_store(url) as store:
        measure_blobs(kind, store)
        for threads in (1, THREADS):
            measure_updates(kind, store, threads)
        measure_rounds(kind, store)


def measure_blobs(kind: str, store: Store) -> None:
    put_s, read_s = [], []
    for number in range(TIMES):
        data = number.to_bytes(1, "big") * BLOB_BYTES
        put_s.append(seconds(partial(store.blobs.put, data)))
        digest = hashlib.sha256(data).hexdigest()
        read_s.append(seconds(partial(store.blobs.read, digest)))
        store.blobs.delete(digest)
    record(
        "store_blob",
        None,
        store=kind,
        size_bytes=BLOB_BYTES,
        put_s=round(statistics.median(put_s), 4),
        read_s=round(statistics.median(read_s), 4),
    )


def measure_updates(kind: str, store: Store, threads: int) -> None:
    run_id = f"updates-{threads}"
    store.journal.create_run(a_run(run_id), an_entry(run_id))
    digest = store.blobs.put(b"payload")

    def accept(number: int) -> None:
        update = UpdateRecord(
            run_id=run_id,
            round=1,
            assignment_id=f"{run_id}/1/worker-{number}",
            worker_id=f"worker-{number}",
            header={"weight": 600.0, "steps": 19, "metrics": {"train_loss": 0.5}},
            digest=digest,
            size_bytes=7,
            accepted_at_s=1.0,
        )
        assert store.journal.accept_update(update, an_entry(run_id))

    with ThreadPoolExecutor(threads) as pool:
        taken_s = seconds(lambda: sum(1 for _ in pool.map(accept, range(UPDATES))))
    record(
        "store_accept_update",
        None,
        store=kind,
        threads=threads,
        updates=UPDATES,
        per_second=round(UPDATES / taken_s),
    )


def measure_rounds(kind: str, store: Store) -> None:
    store.journal.create_run(a_run("rounds"), an_entry("rounds"))
    taken_s = []
    for round_number in range(1, ROUNDS + 1):
        digest = store.blobs.put(f"version {round_number}".encode())
        version = VersionRecord(
            model="bench",
            number=round_number,
            digest=digest,
            size_bytes=10,
            schema=SCHEMA,
            run_id="rounds",
            round=round_number,
            parent=round_number - 1 or None,
            created_at_s=1.0,
            card={"model": {"name": "mlp"}, "classes": [str(i) for i in range(10)]},
            metrics={"workers": [f"worker-{i}" for i in range(100)]},
        )
        commit = RoundCommit(
            run_id="rounds",
            round=round_number,
            version=version,
            memory_digest="",
            aliases=("latest",),
            entry=an_entry("rounds"),
        )
        taken_s.append(seconds(partial(store.commit_round, commit)))
    record(
        "store_commit_round",
        None,
        store=kind,
        rounds=ROUNDS,
        median_ms=round(1e3 * statistics.median(taken_s), 3),
        p99_ms=round(1e3 * statistics.quantiles(taken_s, n=100)[98], 3),
    )


def seconds(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s


def a_run(run_id: str) -> RunRecord:
    return RunRecord(
        run_id=run_id,
        model="bench",
        recipe="",
        state=RunState.RUNNING,
        rounds=ROUNDS,
        created_at_s=1.0,
        updated_at_s=1.0,
    )


def an_entry(run_id: str) -> Entry:
    return Entry(run_id=run_id, round=1, at_s=1.0, kind="bench", fields={"a": 1})


if __name__ == "__main__":
    main()
