"""The journal's records as Redis keeps them, and what of a stream comes after an id."""

from __future__ import annotations

import json

from fedfleet.store.protocols import Entry, RunRecord, RunState, UpdateRecord
from fedfleet.store.redis_connection import Reply
from fedfleet.store.redis_lanes import RedisServer

_MOST_ID = 2**63
# Rows of a stream that one command asks for.
AT_ONCE = 2000


def after(
    server: RedisServer, stream: str, after_id: int, limit: int | None
) -> list[tuple[int, bytes]]:
    """Ids and texts of a stream that come after an id, in order; no limit is None, or below 0.

    Asked for in pieces: one command for all of a long run would hold up everybody else's.
    """
    found: list[tuple[int, bytes]] = []
    most = _MOST_ID if limit is None or limit < 0 else limit
    while len(found) < most and after_id < _MOST_ID:
        count = min(AT_ONCE, most - len(found))
        first = f"{max(0, after_id) + 1}-0"
        rows = server.read(("XRANGE", stream, first, "+", "COUNT", count))[0]
        found += [(int(row_id.partition(b"-")[0]), fields[1]) for row_id, fields in rows]
        if len(rows) < count:
            break
        after_id = found[-1][0]
    return found


def run_of(fields: Reply) -> RunRecord:
    """The record of a run's hash, names and values in turn."""
    words = [word.decode() for word in fields]
    found = dict(zip(words[::2], words[1::2], strict=True))
    return RunRecord(
        run_id=found["run_id"],
        model=found["model"],
        recipe=found["recipe"],
        state=RunState(found["state"]),
        rounds=int(found["rounds"]),
        created_at_s=float(found["created_at_s"]),
        updated_at_s=float(found["updated_at_s"]),
        round=int(found["round"]),
        code=found["code"],
        reason=found["reason"],
    )


def entry_text(entry: Entry) -> str:
    """What the journal keeps of an entry, beside its run and its id."""
    fields = {"round": entry.round, "at_s": entry.at_s, "kind": entry.kind, "fields": entry.fields}
    return json.dumps(fields, separators=(",", ":"))


def entry_of(run_id: str, event_id: int, text: bytes) -> Entry:
    """The entry that ``entry_text`` has told."""
    return Entry(run_id=run_id, event_id=event_id, **json.loads(text))


def update_text(update: UpdateRecord) -> str:
    """What the journal keeps of an update, beside what it is found by and its digest."""
    keyed = {"run_id", "round", "assignment_id", "digest"}
    fields = {name: value for name, value in vars(update).items() if name not in keyed}
    return json.dumps(fields, separators=(",", ":"))


def update_of(run_id: str, round: int, assignment_id: bytes, text: bytes) -> UpdateRecord:
    """The update of a round's hash: its digest, and what ``update_text`` has told."""
    digest, _, record = text.partition(b" ")
    return UpdateRecord(
        run_id=run_id,
        round=round,
        assignment_id=assignment_id.decode(),
        digest=digest.decode(),
        **json.loads(record),
    )
