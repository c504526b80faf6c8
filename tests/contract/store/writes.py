"""Every kind of write that a store knows, as calls that succeed on a store made by ``prepare``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contract.store.builders import (
    a_certificate,
    a_commit,
    a_deed,
    a_key,
    a_run,
    a_token,
    a_version,
    an_entry,
    an_import,
    an_update,
    digest_of,
)

from fedfleet.store.protocols import RunState, Store

# In an order in which each can follow the others.
WRITES: dict[str, Callable[[Store], object]] = {
    "create_run": lambda s: s.journal.create_run(a_run("run-2"), an_entry("run-2")),
    "set_run_state": lambda s: s.journal.set_run_state("run-1", RunState.RUNNING, an_entry()),
    "append": lambda s: s.journal.append(an_entry()),
    "accept_update": lambda s: s.journal.accept_update(an_update(round=2), an_entry(round=2)),
    "commit_round": lambda s: s.commit_round(a_commit(a_version(2))),
    "set_alias": lambda s: s.registry.set_alias("digits", "production", 1),
    "add_version": lambda s: s.registry.add(an_import(3), ("latest", "candidate")),
    "retire": lambda s: s.registry.retire("old", 1, 50.5),
    "delete_blob": lambda s: s.blobs.delete(digest_of(b"spare")),
    "add_token": lambda s: s.access.add_token(a_token("new")),
    "delete_token": lambda s: s.access.delete_token("unwanted"),
    "use_token": lambda s: s.access.use_token("used", a_certificate("b")),
    "add_certificate": lambda s: s.access.add_certificate(a_certificate("c")),
    "revoke": lambda s: s.access.revoke("worker", "pi-7"),
    "forget_certificates": lambda s: s.access.forget_certificates(100.0),
    "add_key": lambda s: s.access.add_key(a_key("new")),
    "delete_key": lambda s: s.access.delete_key("unwanted"),
    "append_deed": lambda s: s.audit.append(a_deed()),
}


def prepare(store: Store) -> None:
    """Put into an empty store what the writes need."""
    store.journal.create_run(a_run(), an_entry())
    for data in (b"payload", b"weights", b"spare"):
        store.blobs.put(data)
    store.commit_round(a_commit(a_version(1)))
    for number in (1, 2):
        store.registry.add(an_import(number))
    for token_id in ("unwanted", "used"):
        store.access.add_token(a_token(token_id))
    store.access.add_certificate(a_certificate("a"))
    store.access.add_certificate(a_certificate("0", name="ended", expires_at_s=99.0))
    store.access.add_key(a_key("unwanted"))
    store.audit.append(a_deed())


def everything(store: Store) -> list[Any]:
    """All that the writes can change, as the store tells it."""
    journal, registry, access = store.journal, store.registry, store.access
    return [
        journal.runs(),
        [journal.entries(run_id) for run_id in ("run-1", "run-2")],
        [journal.updates("run-1", round) for round in (1, 2)],
        [registry.versions(model) for model in ("digits", "old")],
        [registry.aliases(model) for model in ("digits", "old")],
        registry.events(),
        store.blobs.size(digest_of(b"spare")),
        access.tokens(),
        access.certificates(),
        access.keys(),
        store.audit.records(),
    ]
