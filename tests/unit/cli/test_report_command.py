from __future__ import annotations

from pathlib import Path

import pytest
from records import record, write_record

from fedfleet.reports.record import ROUNDS


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (1, 2):
        write_record(tmp_path / "runs" / f"seed-{seed}", record((40, 60), seed=seed))
    return tmp_path / "runs"


def test_report_of_a_folder_of_records_is_a_page_and_pictures(
    cli, runs: Path, tmp_path: Path
) -> None:
    page, pictures = tmp_path / "deep" / "page.html", tmp_path / "pictures"

    result = cli("report", str(runs), "--out", str(page), "--png", str(pictures))

    assert (result.status, result.err) == (0, "")
    assert "2 completed" in result.out
    assert f"The report: {page}; its figures: {pictures}" in result.out
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(list(pictures.glob("*.png"))) == 11


def test_report_prints_one_document(cli, runs: Path, tmp_path: Path) -> None:
    argv = ("report", str(runs / "seed-2"), str(runs / "seed-1"), "--target", "0.5", "--json")
    document = cli(*argv, "--out", str(tmp_path / "r.html")).document

    assert document["target"] == 0.5
    assert [run["seed"] for run in document["runs"]] == [2, 1]
    assert document["runs"][0]["final_accuracy"] == 0.6
    assert document["runs"][0]["to_target"] == {
        "round": 2,
        "moved_bytes": 300,
        "elapsed_s": 20.0,
        "virtual_s": None,
    }


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("{runs}/none",), "NOT_FOUND", "/none: is not a folder; name the folder of a record"),
        (("{runs}/..",), "NOT_FOUND", "holds no record of a run (run.json)"),
        (("{runs}", "--target", "90"), "SETTING_INVALID", "--target 90: must be a share"),
        (("{runs}", "--target", "nan"), "SETTING_INVALID", "--target not a number"),
        (("{runs}", "--out", "{runs}"), "SETTING_INVALID", "Is a directory"),
        (("{runs}", "--png", "{runs}/seed-1/run.json"), "SETTING_INVALID", "File exists"),
        (("a-run", "--coordinator", "127.0.0.1:9"), "UNAVAILABLE", "no coordinator answers"),
    ],
)
def test_report_that_cannot_be_says_why_in_one_line(
    cli, runs: Path, tmp_path: Path, argv: tuple[str, ...], code: str, says: str
) -> None:
    given = [text.format(runs=runs) for text in argv]
    out = () if "--out" in given else ("--out", str(tmp_path / "r.html"))

    result = cli("report", *given, *out)

    assert result.status == 1
    assert result.err.startswith(f"fedfleet: {code}: ")
    assert says in result.err
    assert result.err.count("\n") == 1


def test_report_of_a_broken_record_names_the_line(cli, runs: Path, tmp_path: Path) -> None:
    path = runs / "seed-1" / ROUNDS
    path.write_text("{}\n" + path.read_text())

    result = cli("report", str(runs), "--out", str(tmp_path / "r.html"))

    assert result.status == 1
    assert result.err.startswith("fedfleet: RECORD_INVALID: ")
    assert "rounds.jsonl, line 1: is not what FedFleet wrote: KeyError: 'evaluation'" in result.err


def test_simulate_keeps_a_record_that_a_report_is_made_of(cli, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    simulated = cli("simulate", str(tiny), "--out", str(folder), "--json").document
    again = cli("simulate", str(tiny), "--out", str(folder))
    found = cli("report", str(folder), "--out", str(tmp_path / "r.html"), "--json").document

    last = simulated["round_results"][-1]
    assert sorted(path.name for path in folder.iterdir()) == [
        *("data.json", "model.safetensors", "recipe.toml", "rounds.jsonl", "run.json"),
    ]
    assert found["runs"][0]["final_accuracy"] == last["evaluation"]["accuracy"]
    assert found["runs"][0]["outcome"] == "completed"
    assert sum(map(sum, last["evaluation"]["confusion"])) == last["evaluation"]["samples"]
    assert again.status == 1
    assert again.err.startswith("fedfleet: ALREADY_EXISTS: ")
