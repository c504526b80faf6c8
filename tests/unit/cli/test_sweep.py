from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from fedfleet.reports.record import read_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ENVIRON = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_sweep_runs_the_grid_and_takes_up_what_is_not_finished(
    cli, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    argv = ("sweep", str(tiny), "--set", "training.lr=0.1,0.5", "--set", "seed=1,2")
    argv = (*argv, "--out", str(folder), "--jobs", "2", "--target", "0.1")

    first = cli(*argv, environ=ENVIRON)
    (folder / "lr=0.5,seed=2" / "run.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/rounds.jsonl")}
    again = cli(*argv, "--json", environ=ENVIRON)

    assert (first.status, first.err) == (0, "")
    assert again.status == 0
    assert "4/4  " in first.out
    changed = [path.parent.name for path, at in kept.items() if path.stat().st_mtime_ns != at]
    assert changed == ["lr=0.5,seed=2"]
    results = rows(folder)
    assert [(row["training.lr"], row["seed"]) for row in results] == [
        *(("0.1", "1"), ("0.1", "2"), ("0.5", "1"), ("0.5", "2")),
    ]
    for row in results:
        record = read_record(folder / row["run"])
        found = record.rounds[-1].evaluation
        assert found is not None
        assert float(row["final_accuracy"]) == found.accuracy
        assert int(row["bytes_up"]) == sum(item.bytes_up for item in record.rounds)
        assert row["outcome"] == "completed"
    document = again.document
    assert [run["final_accuracy"] for run in document["runs"]] == [
        float(row["final_accuracy"]) for row in results
    ]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "lr = 0.1 (2 seeds)" in page


def test_sweep_with_other_devices_or_data_runs_again(cli, tiny: Path, tmp_path: Path) -> None:
    profile = '[[profiles]]\nname = "phone"\nshare = 1.0\nsamples_per_s = {}\n'
    for name, rate in (("slow", 50.0), ("fast", 500.0)):
        (tmp_path / f"{name}.toml").write_text(profile.format(rate))
    folder = tmp_path / "sweep"
    argv = ("sweep", str(tiny), "--set", "seed=1", "--out", str(folder), "--json")
    slow, fast = (("--devices", str(tmp_path / f"{name}.toml")) for name in ("slow", "fast"))
    elsewhere = (*fast, "--data-dir", str(tmp_path))

    times, written = [], []
    for options in ((), slow, slow, fast, elsewhere):
        [run] = cli(*argv, *options, environ=ENVIRON).document["runs"]
        times.append(run["virtual_s"])
        written.append((folder / "seed=1" / "run.json").stat().st_mtime_ns)

    assert times[0] is None
    assert times[1] == times[2] > times[3] == times[4]
    assert [one == other for one, other in pairwise(written)] == [
        *(False, True, False, False),
    ]


def test_sweep_with_no_file_of_devices_starts_nothing(cli, tiny: Path, tmp_path: Path) -> None:
    argv = ("--set", "seed=1", "--devices", str(tmp_path / "none"), "--out", str(tmp_path / "s"))

    result = cli("sweep", str(tiny), *argv)

    assert result.err.startswith("fedfleet: SETTING_INVALID: devices: none: no such file")
    assert not (tmp_path / "s").exists()


def test_sweep_goes_on_after_a_run_that_fails_and_says_so(cli, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    argv = ("--set", "training.lr=1e30,0.1", "--out", str(folder))

    result = cli("sweep", str(tiny), *argv, environ=ENVIRON)

    assert result.status == 1
    assert result.err.startswith(
        "fedfleet: PROCESS_DIED: 1 of 2 runs did not complete, the first is lr=1e+30 (QUORUM_NOT_M"
    )
    assert result.err.count("\n") == 1
    outcomes = [(row["outcome"], row["code"]) for row in rows(folder)]
    assert outcomes == [("failed", "QUORUM_NOT_MET"), ("completed", "")]
    assert (folder / "report.html").is_file()


def test_sweep_without_matplotlib_has_results_and_says_what_is_missing(
    tiny: Path, tmp_path: Path
) -> None:
    hiding = tmp_path / "path" / "matplotlib"
    hiding.mkdir(parents=True)
    (hiding / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'matplotlib'\", name='matplotlib')"
    )

    done = subprocess.run(
        [
            *(sys.executable, "-m", "fedfleet.cli.main", "sweep", str(tiny)),
            *("--set", "seed=1", "--out", str(tmp_path / "sweep")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**ENVIRON, "PYTHONPATH": str(hiding.parent)},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "No report: a report's figures: matplotlib is not installed here" in done.stdout
    assert len(rows(tmp_path / "sweep")) == 1
    assert not (tmp_path / "sweep" / "report.html").exists()


@contextmanager
def sweeping(tiny: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep of one run that takes long."""
    recipe = tiny.read_text().replace("rounds = 2", "rounds = 100000")
    tiny.write_text(recipe)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "fedfleet.cli.main", "sweep", str(tiny)),
            *("--set", "seed=1", "--out", str(folder)),
        ],
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_sweep_that_is_interrupted_ends_its_runs_which_say_so(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with sweeping(tiny, folder) as process:
        wait_for_rounds(folder / "seed=1", process)
        process.send_signal(signal.SIGINT)
        process.wait(60)

    record = read_record(folder / "seed=1")
    assert process.returncode == 130
    assert record.facts.outcome == "interrupted"
    assert len(record.rounds) >= 1


def wait_for_rounds(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run has closed a round: until its record says so."""
    rounds = folder / "rounds.jsonl"
    while not (rounds.is_file() and rounds.read_bytes().count(b"\n")):
        assert process.poll() is None, process.communicate()
        with subprocess.Popen([sys.executable, "-c", ""]) as pause:
            pause.wait()


def test_sweep_of_a_wrong_setting_starts_nothing(cli, tiny: Path, tmp_path: Path) -> None:
    result = cli("sweep", str(tiny), "--set", "training.lr=0.1,-1", "--out", str(tmp_path / "s"))

    assert result.status == 1
    assert result.err.startswith("fedfleet: RECIPE_INVALID: with training.lr = -1: training.lr")
    assert not (tmp_path / "s").exists()
    assert result.out == ""
