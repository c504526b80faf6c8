from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from contract.store.builders import a_deed
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import AuditBroken
from fedfleet.store.audit import AuditRecord, Deed, chained, verify

# A value of each field that no deed of ``logs`` has, so that to write it is to alter the record.
ALTERED: dict[str, Any] = {
    "at_s": 0.5,
    "actor": "operator/eve",
    "action": "nothing",
    "object": "worker/other",
    "fields": {"altered": True},
    "number": 99,
    "hash": "f" * 64,
}

DEEDS = st.builds(
    Deed,
    at_s=st.integers(0, 9),
    actor=st.sampled_from(["local", "operator/ada"]),
    action=st.sampled_from(["run_start", "token_create"]),
    object=st.sampled_from(["run/1", "worker/pi-7"]),
    fields=st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2),
)


def log_of(deeds: list[Deed]) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for deed in deeds:
        records.append(chained(deed, records[-1] if records else None))
    return records


LOGS = st.lists(DEEDS, min_size=1, max_size=8).map(log_of)


def test_the_altered_values_are_for_every_field() -> None:
    assert set(ALTERED) == {field.name for field in fields(AuditRecord)}


@given(log=LOGS)
def test_verify_takes_a_whole_log_and_any_page_of_it(log: list[AuditRecord]) -> None:
    assert verify([]) == 0
    for start in range(len(log)):
        assert verify(log[start:], log[start - 1] if start else None) == len(log) - start


@given(log=LOGS, data=st.data())
def test_verify_names_a_record_of_which_any_field_was_altered(
    log: list[AuditRecord], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(log) - 1))
    name = data.draw(st.sampled_from(sorted(ALTERED)))
    log[index] = replace(log[index], **{name: ALTERED[name]})

    with pytest.raises(AuditBroken, match=rf"^audit record {index + 1} (was|is)") as caught:
        verify(log)

    assert caught.value.code == "AUDIT_BROKEN"


@given(log=LOGS, data=st.data())
def test_verify_names_a_record_that_was_removed_from_before_the_last(
    log: list[AuditRecord], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(log) - 1))
    del log[index]

    if index == len(log):
        assert verify(log) == index  # the last one: the chain itself cannot tell
    else:
        with pytest.raises(AuditBroken, match=rf"^audit record {index + 1} is missing"):
            verify(log)


@given(log=LOGS, data=st.data())
def test_verify_names_the_record_behind_one_that_was_altered_and_hashed_again(
    log: list[AuditRecord], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(log) - 1))
    name = data.draw(st.sampled_from([field.name for field in fields(Deed)]))
    deed = replace(log[index], **{name: ALTERED[name]})
    log[index] = chained(deed, log[index - 1] if index else None)

    if index == len(log) - 1:
        assert verify(log) == len(log)
    else:
        with pytest.raises(AuditBroken, match=rf"^audit record {index + 2} .*the one before it"):
            verify(log)


@given(log=LOGS, data=st.data())
def test_verify_finds_a_record_that_was_put_in_or_moved(
    log: list[AuditRecord], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(log) - 1))
    log.insert(data.draw(st.integers(0, len(log))), log[index])

    with pytest.raises(AuditBroken):
        verify(log)


@pytest.mark.parametrize(
    ("made", "read"),
    [
        ({10: "a", 9: ("b", ("c",))}, {"10": "a", "9": ["b", ["c"]]}),
        ({"b": 1, "a": {None: 1.0, True: -0.0}}, {"b": 1, "a": {"null": 1.0, "true": -0.0}}),
    ],
)
def test_chained_makes_of_fields_what_is_read_back(
    made: dict[Any, Any], read: dict[str, Any]
) -> None:
    record = chained(a_deed(fields=made, at_s=-0.0), None)

    assert repr(record.fields) == repr(read)
    assert math.copysign(1.0, record.at_s) == 1.0
    assert verify([record]) == 1


def test_chained_keeps_nothing_of_a_deed_that_is_changed_later() -> None:
    inner = ["worker"]
    deed = a_deed(fields={"roles": inner})

    record = chained(deed, None)
    inner.append("operator")

    assert record.fields == {"roles": ["worker"]}
