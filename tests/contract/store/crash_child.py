"""Runs rounds on a store until it is killed; prints a line after each call that returned.

Usage: python crash_child.py URL
"""

from __future__ import annotations

import itertools
import random
import sys

from contract.store.builders import a_commit, a_run, a_version, an_entry, an_update, digest_of

from fedfleet.errors import NotFound
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store

ASSIGNMENTS = ("a", "b", "c")


def payload(round: int, name: str) -> bytes:
    return random.Random(f"{round}/{name}").randbytes(20_000)


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def upload(store: Store, data: bytes, key: str) -> None:
    writer = store.blobs.writer(digest_of(data), len(data), key)
    for start in range(writer.offset_bytes, len(data), 4096):
        writer.write(data[start : start + 4096])
    writer.commit()


def run_round(store: Store, round: int, stale_memory: str) -> str:
    for name in ASSIGNMENTS:
        data = payload(round, name)
        upload(store, data, name)
        update = an_update(data, round=round, assignment_id=name)
        store.journal.accept_update(update, an_entry(kind="update", round=round))
        tell("update", round, name)
    version = a_version(round, payload(round, "version"))
    store.blobs.put(payload(round, "version"))
    memory = store.blobs.put(payload(round, "memory"))
    store.commit_round(a_commit(version, memory_digest=memory))
    tell("round", round)
    for name in ASSIGNMENTS:
        store.blobs.delete(digest_of(payload(round, name)))
    store.blobs.delete(stale_memory)
    return memory


def main(url: str) -> None:
    with open_store(url) as store:
        try:
            done = store.journal.run("run-1").round
        except NotFound:
            store.journal.create_run(a_run(), an_entry(kind="created"))
            done = 0
        tell("ready")
        memory = store.journal.memory_digest("run-1")
        for round in itertools.count(done + 1):
            memory = run_round(store, round, memory)


if __name__ == "__main__":
    main(sys.argv[1])
