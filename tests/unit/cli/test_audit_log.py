from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cli.audit_log import (
    PAGE,
    Log,
    Noted,
    check,
    file_log,
    newest_number,
    pages,
    record_of,
)
from fedfleet.cli.documents import audit_document
from fedfleet.errors import AuditBroken, DataMissing
from fedfleet.store.audit import AuditRecord, Deed, chained
from fedfleet.v1 import control_service_pb2 as pb


def chain(count: int) -> list[AuditRecord]:
    """A whole log."""
    records: list[AuditRecord] = []
    for number in range(count):
        deed = Deed(
            at_s=1000.5 + number,
            actor="operator/anna",
            action="token_create",
            object=f"worker/pi-{number}",
            fields={"valid_s": 60.0, "note": 'a "quoted" word'},
        )
        records.append(chained(deed, records[-1] if records else None))
    return records


def log_of(records: Sequence[AuditRecord], calls: list[int] | None = None) -> Log:
    """A log as a store answers it."""

    def log(after_number: int, limit: int) -> list[AuditRecord]:
        if calls is not None:
            calls.append(after_number)
        return [record for record in records if record.number > after_number][:limit]

    return log


LONG = chain(2 * PAGE + 7)


@pytest.mark.parametrize("count", [0, 1, 2, PAGE, PAGE + 1, 2 * PAGE + 7])
def test_check_of_a_whole_log_counts_it_and_names_its_head(count: int) -> None:
    records = LONG[:count]

    whole = check(log_of(records))

    assert whole.count == count
    assert whole.head == (records[-1] if records else None)


@given(data=st.data())
def test_check_finds_one_altered_field_of_one_record(data: st.DataObject) -> None:
    records = chain(12)
    at = data.draw(st.integers(0, 11))
    change = data.draw(
        st.sampled_from(
            [
                {"at_s": 1.0},
                {"actor": "local"},
                {"action": "token_delete"},
                {"object": "worker/other"},
                {"fields": {}},
                {"hash": "0" * 64},
            ]
        )
    )
    records[at] = replace(records[at], **change)

    with pytest.raises(AuditBroken, match=rf"\b({at + 1}|{at + 2})\b"):
        check(log_of(records))


@given(at=st.integers(0, 10))
def test_check_finds_a_record_that_was_removed_from_the_middle(at: int) -> None:
    records = chain(12)
    del records[at]

    with pytest.raises(AuditBroken, match=rf"record {at + 1} is missing"):
        check(log_of(records))


@given(noted=st.integers(1, 30), count=st.integers(1, 30))
def test_check_from_a_noted_record_on(noted: int, count: int) -> None:
    records = LONG[:30]
    shown = log_of(records[:count])

    if noted <= count:
        assert check(shown, Noted(noted, records[noted - 1].hash)).count == count - noted + 1
    else:  # what was noted was cut off
        with pytest.raises(AuditBroken, match=rf"{noted}|{noted - 1}"):
            check(shown, Noted(noted, records[noted - 1].hash))


def test_check_notices_a_log_that_was_written_anew() -> None:
    true = chain(9)
    false = chain(0)
    for record in true:
        deed = {name: getattr(record, name) for name in ("at_s", "action", "object", "fields")}
        false.append(chained(Deed(actor="local", **deed), false[-1] if false else None))

    assert check(log_of(false)).count == 9
    with pytest.raises(AuditBroken, match="record 7 is not the one that was noted"):
        check(log_of(false), Noted(7, true[6].hash))


@given(at=st.integers(1, 10))
def test_check_from_a_noted_record_on_sees_its_content_altered(at: int) -> None:
    records = chain(10)
    noted = Noted(at, records[at - 1].hash)
    records[at - 1] = replace(records[at - 1], object="worker/other")

    with pytest.raises(AuditBroken, match=f"record {at} was altered"):
        check(log_of(records), noted)


@given(count=st.integers(0, 2 * PAGE + 7))
def test_newest_number_is_that_of_the_last_record(count: int) -> None:
    assert newest_number(log_of(LONG[:count])) == count


def test_newest_number_of_a_long_log_takes_few_calls() -> None:
    calls: list[int] = []

    def log(after_number: int, limit: int) -> list[AuditRecord]:
        calls.append(after_number)
        numbers = range(after_number + 1, min(after_number + limit, 1_234_567) + 1)
        return [replace(LONG[0], number=number) for number in numbers]

    assert newest_number(log) == 1_234_567
    assert len(calls) < 30


def test_pages_of_a_log_that_goes_round_in_circles_end() -> None:
    with pytest.raises(AuditBroken, match="stands after"):
        list(pages(lambda after, limit: LONG[:5], 5))


def written(path: Path, records: Sequence[AuditRecord]) -> Path:
    path.write_text("".join(json.dumps(audit_document(one)) + "\n" for one in records))
    return path


def test_file_is_checked_as_a_log_is(tmp_path: Path) -> None:
    records = chain(30)
    path = written(tmp_path / "all.jsonl", records)

    assert check(file_log(path)).count == 30
    assert check(file_log(path), Noted(11, records[10].hash), is_part=True).count == 20

    part = written(tmp_path / "part.jsonl", records[10:])
    with pytest.raises(AuditBroken, match="record 1 is missing"):
        check(file_log(part))
    for noted, count in ((10, 20), (11, 19), (12, 19)):
        known = Noted(noted, records[noted - 1].hash)
        assert check(file_log(part), known, is_part=True).count == count
    with pytest.raises(AuditBroken, match="record 11 was altered, or the one before"):
        check(file_log(part), Noted(10, "0" * 64), is_part=True)
    with pytest.raises(AuditBroken, match="record 11 is not the one that was noted"):
        check(file_log(part), Noted(11, "0" * 64), is_part=True)


def test_file_with_a_line_too_few_or_out_of_place_is_broken(tmp_path: Path) -> None:
    records = chain(9)

    with pytest.raises(AuditBroken, match="record 5 is missing: record 6 follows"):
        file_log(written(tmp_path / "gap.jsonl", records[:4] + records[5:]))
    with pytest.raises(AuditBroken, match="record 6 is missing: record 5 follows"):
        file_log(written(tmp_path / "twice.jsonl", records[:5] + records[4:]))


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", "no json", '{"number": "1"}', '{"number": 1, "at_s": null}', "\x00"]
)
def test_file_with_a_line_that_is_no_record_is_broken(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "log.jsonl", chain(2))
    path.write_text(path.read_text() + line + "\n")

    with pytest.raises(AuditBroken, match="line 3 is no audit record"):
        file_log(path)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"nothing\.jsonl"):
        file_log(tmp_path / "nothing.jsonl")


def test_record_survives_its_way_by_the_api() -> None:
    record = chain(3)[2]
    message = pb.AuditRecord(
        number=record.number,
        at_s=record.at_s,
        actor=record.actor,
        action=record.action,
        object=record.object,
        fields_json=json.dumps(record.fields),
        hash=record.hash,
    )

    assert record_of(message) == record
    for wrong in ("[]", "{", "null", "1"):
        message.fields_json = wrong
        with pytest.raises(AuditBroken, match="record 3 was altered"):
            record_of(message)
