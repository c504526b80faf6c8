from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from records import record, write_record

from fedfleet.errors import FedFleetError, NotFound, RecordInvalid
from fedfleet.reports.record import DATA, FACTS, RECIPE, ROUNDS, find_records, read_record

WHOLE = record()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_record(tmp_path / "run", WHOLE)
    return tmp_path / "run"


def test_record_comes_back_as_it_was_written(folder: Path) -> None:
    assert read_record(folder) == WHOLE


def test_record_without_data_or_rounds_comes_back(tmp_path: Path) -> None:
    bare = replace(record(()), data=None)
    write_record(tmp_path / "run", bare)

    assert read_record(tmp_path / "run") == bare


def test_record_whose_last_line_was_cut_off_has_the_rounds_before(folder: Path) -> None:
    path = folder / ROUNDS
    path.write_bytes(path.read_bytes()[:-20])

    assert [item.round for item in read_record(folder).rounds] == [1, 2]


def test_folder_without_a_record_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds no record of a run \(run.json\)"):
        read_record(tmp_path)
    with pytest.raises(NotFound, match=r"holds no record of a run \(run.json\)"):
        find_records(tmp_path)


def test_find_records_names_those_below_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_record(tmp_path / name, WHOLE)
    (tmp_path / "other").mkdir()

    assert find_records(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert find_records(tmp_path / "a") == [tmp_path / "a"]


@pytest.mark.parametrize("name", [RECIPE, ROUNDS])
def test_record_without_a_file_is_invalid(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(RecordInvalid, match=f"{name}: is missing in the record"):
        read_record(folder)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (FACTS, "{", "JSONDecodeError"),
        (FACTS, "[]", "TypeError"),
        (FACTS, "{}", "KeyError: 'outcome'"),
        (ROUNDS, '{"round": 1}\n', "line 1: .* KeyError"),
        (ROUNDS, "[" * 100_000 + "\n", "line 1"),
        (DATA, '{"title": "x", "groups": null, "per_class": [[1, 2, 3]]}', "is of other classes"),
        (DATA, '{"title": "x", "groups": [0], "per_class": [[1, 2]]}', "is of other classes"),
        (DATA, '{"title": "x", "groups": null, "per_class": [[Infinity, 2]]}', "OverflowError"),
    ],
)
def test_record_with_a_broken_file_is_invalid(
    folder: Path, name: str, text: str, says: str
) -> None:
    (folder / name).write_text(text)

    with pytest.raises(RecordInvalid, match=says) as caught:
        read_record(folder)

    assert name in caught.value.message
    assert caught.value.code == "RECORD_INVALID"


def test_record_that_is_not_text_is_invalid(folder: Path) -> None:
    (folder / RECIPE).write_bytes(b"\xff\xfe")

    with pytest.raises(RecordInvalid, match=r"recipe\.toml: is not UTF-8 text"):
        read_record(folder)


def test_record_with_rounds_out_of_order_is_invalid(folder: Path) -> None:
    lines = (folder / ROUNDS).read_text().splitlines(keepends=True)
    (folder / ROUNDS).write_text("".join(reversed(lines)))

    with pytest.raises(RecordInvalid, match="not in order"):
        read_record(folder)


def test_record_of_other_classes_than_it_names_is_invalid(folder: Path) -> None:
    facts = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps({**facts, "classes": ["a", "b", "c"]}))
    (folder / DATA).unlink()

    with pytest.raises(RecordInvalid, match=r"evaluated over 2 classes, run\.json names 3"):
        read_record(folder)


def test_record_with_any_damage_is_read_or_refused_in_one_line(folder: Path) -> None:
    draws = random.Random(7)
    whole = {name: (folder / name).read_bytes() for name in (FACTS, ROUNDS, DATA, RECIPE)}
    codes = []
    for _ in range(300):
        name = draws.choice(sorted(whole))
        data = bytearray(whole[name])
        place = draws.randrange(len(data))
        data[place : place + draws.randrange(1, 40)] = bytes(draws.choices(b'"{}[],:0e-x\n', k=3))
        (folder / name).write_bytes(bytes(data))
        try:
            read_record(folder)
        except FedFleetError as error:
            codes.append(error.code)
        (folder / name).write_bytes(whole[name])
    assert set(codes) == {"RECORD_INVALID"}
    assert len(codes) > 50


def test_record_keeps_what_results_depend_on_and_an_earlier_one_has_none(folder: Path) -> None:
    options = {"devices": "abc", "batch_workers": "8"}
    write_record(folder.parent / "other", record(options=options))
    facts = json.loads((folder / FACTS).read_text())
    del facts["options"]
    (folder / FACTS).write_text(json.dumps(facts))

    assert read_record(folder.parent / "other").facts.options == options
    assert read_record(folder) == WHOLE
