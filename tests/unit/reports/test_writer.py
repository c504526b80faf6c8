from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from records import record, round_result

from fedfleet.errors import AlreadyExists
from fedfleet.reports.record import FACTS, MODEL, ROUNDS, read_record
from fedfleet.reports.writer import RecordWriter

FACTS_NOW = replace(record().facts, outcome="running", ended_at_s=None)
TEXT = record().recipe


def test_writer_leaves_a_record_at_every_moment(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "deep" / "run", FACTS_NOW, TEXT)
    seen = [len(read_record(tmp_path / "deep" / "run").rounds)]
    for number in (1, 2):
        writer.add(round_result(number, 50))
        seen.append(len(read_record(tmp_path / "deep" / "run").rounds))

    assert seen == [0, 1, 2]
    assert read_record(tmp_path / "deep" / "run").facts.outcome == "running"


def test_writer_says_how_the_run_ended(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path, FACTS_NOW, TEXT)
    writer.finish("failed", "QUORUM_NOT_MET", "too few", model=b"bytes")

    facts = read_record(tmp_path).facts
    assert (facts.outcome, facts.code, facts.reason) == ("failed", "QUORUM_NOT_MET", "too few")
    assert facts.ended_at_s is not None
    assert (tmp_path / MODEL).read_bytes() == b"bytes"
    assert not list(tmp_path.glob("*.partial"))


def test_writer_writes_what_every_json_reader_knows(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path, FACTS_NOW, TEXT)
    writer.add(replace(round_result(1), metrics={"train_loss": math.nan, "x": 1.0}))

    def refuse(text: str) -> None:
        raise AssertionError(text)

    [line] = (tmp_path / ROUNDS).read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["metrics"] == {"train_loss": None, "x": 1.0}


def test_writer_leaves_another_record_alone_unless_told(tmp_path: Path) -> None:
    RecordWriter(tmp_path, FACTS_NOW, TEXT).add(round_result(1, 50))
    with pytest.raises(AlreadyExists, match="holds the record of a run"):
        RecordWriter(tmp_path, FACTS_NOW, TEXT)
    assert len(read_record(tmp_path).rounds) == 1

    RecordWriter(tmp_path, FACTS_NOW, TEXT, replaces=True)

    assert len(read_record(tmp_path).rounds) == 0
    assert (tmp_path / FACTS).is_file()


def test_writer_keeps_the_rounds_before_until_the_first_is_added(tmp_path: Path) -> None:
    before = [round_result(number, 50) for number in (1, 2)]
    RecordWriter(tmp_path, FACTS_NOW, TEXT).add(round_result(1, 40))

    writer = RecordWriter(tmp_path, FACTS_NOW, TEXT, replaces=True, before=before)
    seen = [read_record(tmp_path).rounds]
    for number in (1, 2, 3):
        writer.add(round_result(number, 60))
        seen.append(read_record(tmp_path).rounds)

    new = [round_result(number, 60) for number in (1, 2, 3)]
    assert seen == [before, new[:1], new[:2], new]
