"""The audit log: who did what, in append-only records that are chained by hash.

Each record's hash covers its own content and the hash of the record before it, so that a record
that was altered, removed from the middle or put in breaks the chain at that place. Records that
are cut off at the end leave a whole chain: signed versions and whoever has noted the last number
and hash tell that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fedfleet.errors import AuditBroken

# What the first record is chained to.
GENESIS = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Deed:
    """What is to be recorded.

    Args:
        actor: ``ROLE/NAME``, or ``local`` for a caller on a loopback without TLS.
        action: a fixed word, for example ``token_create``.
        object: what it was done to, for example ``worker/pi-7``.
        fields: a JSON object; no secrets.
    """

    at_s: float
    actor: str
    action: str
    object: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AuditRecord(Deed):
    """A deed as it stands in the log; ``number`` counts from 1 without a gap."""

    number: int
    hash: str


class Audit(Protocol):
    """Append-only."""

    def append(self, deed: Deed) -> AuditRecord:
        """Chain a deed to the last record, in one transaction."""

    def records(self, after_number: int = 0, limit: int = 1000) -> list[AuditRecord]:
        """In order."""

    def head(self) -> AuditRecord | None:
        """The last record."""


def chained(deed: Deed, previous: AuditRecord | None) -> AuditRecord:
    """The record that a deed becomes behind another one.

    It is as every store will read it back: keys are text, a tuple is a list, -0.0 is 0.0.
    """
    told = Deed(
        at_s=float(deed.at_s) + 0.0,
        actor=deed.actor,
        action=deed.action,
        object=deed.object,
        fields=json.loads(json.dumps(dict(deed.fields))),
    )
    number = previous.number + 1 if previous else 1
    before = previous.hash if previous else GENESIS
    return AuditRecord(**vars(told), number=number, hash=_hash(told, number, before))


def verify(records: Iterable[AuditRecord], previous: AuditRecord | None = None) -> int:
    """Check a chain; returns how many records it has.

    Args:
        previous: the record before the first one, None from the log's beginning on.

    Raises:
        AuditBroken: names the first record that does not fit.
    """
    count = 0
    for record in records:
        number = previous.number + 1 if previous else 1
        if record.number != number:
            raise AuditBroken(f"audit record {number} is missing: record {record.number} follows")
        before = previous.hash if previous else GENESIS
        if _hash(record, number, before) != record.hash:
            raise AuditBroken(f"audit record {number} was altered, or the one before it was")
        previous, count = record, count + 1
    return count


def _hash(deed: Deed, number: int, before: str) -> str:
    content = {
        "number": number,
        "at_s": float(deed.at_s),
        "actor": deed.actor,
        "action": deed.action,
        "object": deed.object,
        "fields": dict(deed.fields),
        "before": before,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
