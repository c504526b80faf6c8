"""The audit log in Redis."""

from __future__ import annotations

import json
import math
from typing import Any

from fedfleet.store.audit import AuditRecord, Deed, chained
from fedfleet.store.redis_lanes import RedisServer
from fedfleet.store.redis_scripts import Script

# The record is chained here, so it is added only where the last one is still the one seen.
_APPEND = Script(
    "log",
    "number_of_record seen record",
    """
local head = redis.call('ZREVRANGE', log, 0, 0)
if (head[1] or '') ~= seen then return done({'look_again'}) end
redis.call('ZADD', log, number_of_record, record)
return done({'ok'})
""",
)

_TYPES: dict[str, type] = {"actor": str, "action": str, "object": str, "hash": str, "fields": dict}


class RedisAudit:
    """Keeps the promises of ``Audit``; what was made unreadable comes as altered records."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._log = server.keys.audit

    def append(self, deed: Deed) -> AuditRecord:
        while True:
            head = self._server.read(("ZREVRANGE", self._log, 0, 0, "WITHSCORES"))[0]
            record = chained(deed, _record(*head) if head else None)
            seen = head[0] if head else b""
            text = json.dumps(vars(record), separators=(",", ":"))
            reply = self._server.write(_APPEND, [self._log], [record.number, seen, text])
            if reply[0] == b"ok":
                return record

    def records(self, after_number: int = 0, limit: int = 1000) -> list[AuditRecord]:
        rows = self._server.read(
            (
                "ZRANGEBYSCORE",
                self._log,
                f"({after_number}",
                "+inf",
                "WITHSCORES",
                "LIMIT",
                0,
                limit,
            )
        )[0]
        return [_record(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)]

    def head(self) -> AuditRecord | None:
        head = self._server.read(("ZREVRANGE", self._log, 0, 0, "WITHSCORES"))[0]
        return _record(*head) if head else None


def _record(text: bytes, score: bytes) -> AuditRecord:
    # Whoever alters the log may put anything into it.
    fields = _readable(text) or {
        "at_s": math.nan,
        "actor": "",
        "action": "",
        "object": "",
        "fields": {"unreadable": text.decode(errors="replace")},
        "hash": "",
    }
    return AuditRecord(**{**fields, "number": int(float(score))})


def _readable(text: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.keys() != {*_TYPES, "at_s", "number"}:
        return None
    if not all(isinstance(fields[name], kind) for name, kind in _TYPES.items()):
        return None
    return fields if isinstance(fields["at_s"], (int, float)) else None
