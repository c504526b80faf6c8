"""Where the audit log is read from, and what makes a whole one.

A log is a function that answers as the store's does: the records after a number, in order, at most
so many. The coordinator answers by its API; the store of one that is down is opened here; a file
is what ``fedfleet audit show --json`` has printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from fedfleet.errors import AuditBroken, DataMissing
from fedfleet.store.audit import AuditRecord, verify
from fedfleet.v1 import control_service_pb2 as pb

PAGE = 1000
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "number": int,
    "at_s": (int, float),
    "actor": str,
    "action": str,
    "object": str,
    "fields": dict,
    "hash": str,
}


class Log(Protocol):
    """Reads some records."""

    def __call__(self, after_number: int, limit: int) -> list[AuditRecord]: ...


@dataclass(frozen=True)
class Noted:
    """The number and hash of a record, as somebody wrote them down outside the system."""

    number: int
    hash: str


@dataclass(frozen=True)
class Whole:
    """A log without a fault.

    Args:
        count: records that were checked.
        head: the last one; None where the log is empty.
    """

    count: int
    head: AuditRecord | None


def check(log: Log, noted: Noted | None = None, *, is_part: bool = False) -> Whole:
    """Check every record, or those from a noted one on, which is checked too.

    Args:
        is_part: the log may begin at the noted record or right behind it, as a file can.

    Raises:
        AuditBroken: names the first record that does not fit.
    """
    previous = None if noted is None else _before(log, noted, is_part)
    is_found = noted is None or (previous is not None and previous.number == noted.number)
    count = 0
    for page in pages(log, previous.number if previous else 0):
        count += verify(page, previous)
        if noted is not None and not is_found:
            _compare(page[0], noted)
            is_found = True
        previous = page[-1]
    if noted is not None and not is_found:
        raise AuditBroken(f"audit record {noted.number}, which was noted, is missing")
    return Whole(count, previous)


def _before(log: Log, noted: Noted, is_part: bool) -> AuditRecord | None:
    """The record before the first that is to be checked, which is the noted one where it can be."""
    number = noted.number - 1
    if number == 0:
        return None
    near = log(number - 1, 1)
    if near and near[0].number == number:
        return near[0]
    if is_part and near and near[0].number == noted.number:
        _compare(near[0], noted)
        return near[0]
    if is_part and near and near[0].number == noted.number + 1:
        return AuditRecord(
            number=noted.number,
            hash=noted.hash,
            at_s=0.0,
            actor="",
            action="",
            object="",
            fields={},
        )
    raise AuditBroken(f"audit record {number}, before the one that was noted, is missing")


def _compare(record: AuditRecord, noted: Noted) -> None:
    if (record.number, record.hash) != (noted.number, noted.hash):
        raise AuditBroken(f"audit record {noted.number} is not the one that was noted")


def pages(log: Log, after_number: int = 0) -> Iterator[list[AuditRecord]]:
    """All records after a number, some at a time; none is empty."""
    while page := log(after_number, PAGE):
        yield page
        if page[-1].number <= after_number:  # else this would never end
            raise AuditBroken(f"audit record {page[-1].number} stands after {after_number}")
        after_number = page[-1].number


def newest_number(log: Log) -> int:
    """The number of the last record, 0 for an empty log, in few calls however long the log is."""
    low, step = 0, PAGE
    while log(low + step, 1):
        low, step = low + step, 2 * step
    # There is none after low + step, and low is 0 or has one after it.
    high = low + step
    while high - low > PAGE:
        middle = (low + high) // 2
        low, high = (middle, high) if log(middle, 1) else (low, middle)
    page = log(low, PAGE)
    return page[-1].number if page else 0


def file_log(path: Path) -> Log:
    """The records of a file, one JSON object a line.

    Raises:
        DataMissing: it cannot be read.
        AuditBroken: a line is no record.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            records = [_parsed(number, line) for number, line in enumerate(file, start=1)]
    except OSError as error:
        raise DataMissing(f"--file {str(path)!r} cannot be read: {error.strerror}") from error

    for one, following in pairwise(records):
        if following.number != one.number + 1:
            raise AuditBroken(
                f"audit record {one.number + 1} is missing: record {following.number} follows"
            )

    def log(after_number: int, limit: int) -> list[AuditRecord]:
        start = max(0, after_number + 1 - records[0].number) if records else 0
        return records[start : start + limit]

    return log


def _parsed(line_number: int, line: str) -> AuditRecord:
    try:
        content = json.loads(line)
    except ValueError:
        content = None
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name), kind) for name, kind in _TYPES.items()
    ):
        raise AuditBroken(f"line {line_number} is no audit record")
    return AuditRecord(**{name: content[name] for name in _TYPES})


def record_of(message: pb.AuditRecord) -> AuditRecord:
    """A record that came by the API; raises AuditBroken."""
    try:
        fields = json.loads(message.fields_json or "{}")
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise AuditBroken(f"audit record {message.number} was altered: its fields are no JSON")
    return AuditRecord(
        number=message.number,
        at_s=message.at_s,
        actor=message.actor,
        action=message.action,
        object=message.object,
        fields=fields,
        hash=message.hash,
    )
