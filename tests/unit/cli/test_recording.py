from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from records import round_result

from fedfleet.cli.recording import data_map, options_of, recording
from fedfleet.errors import AlreadyExists, DataInvalid, SettingInvalid, TrainingFailed
from fedfleet.reports.record import read_record
from fedfleet.rounds.recipe import Recipe, parse_recipe


@pytest.fixture
def recipe(tiny: Path) -> Recipe:
    return parse_recipe(tiny.read_text())


def result(number: int, at_s: float):
    return replace(round_result(number), at_s=at_s)


def test_recording_without_a_folder_keeps_nothing(recipe: Recipe, tmp_path: Path) -> None:
    with recording(None, recipe, None, goes_on=False) as kept:
        kept.add(result(1, 0.0))
        kept.finish("completed")

    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (TrainingFailed("not finite"), "failed", "TRAINING_FAILED"),
        (KeyboardInterrupt(), "interrupted", ""),
        (BrokenPipeError(), "interrupted", ""),
    ],
)
def test_recording_keeps_what_ended_the_run(
    recipe: Recipe, tmp_path: Path, error: BaseException, outcome: str, code: str
) -> None:
    def run() -> None:
        with recording(tmp_path / "run", recipe, None, goes_on=False) as kept:
            kept.add(result(1, 0.0))
            raise error

    with pytest.raises(type(error)):
        run()

    record = read_record(tmp_path / "run")
    assert (record.facts.outcome, record.facts.code) == (outcome, code)
    assert len(record.rounds) == 1
    assert record.facts.versions["python"]
    assert record.data is not None
    assert [sum(row) for row in record.data.per_class] == [200, 200]


def test_recording_of_a_run_that_goes_on_has_no_gap_in_time(recipe: Recipe, tmp_path: Path) -> None:
    def run(*rounds: tuple[int, float], goes_on: bool) -> list[float]:
        with recording(tmp_path / "run", recipe, None, goes_on=goes_on) as kept:
            for number, at_s in rounds:
                kept.add(result(number, at_s))
        record = read_record(tmp_path / "run")
        began = record.facts.started_at_s
        assert began is not None
        return [item.at_s - began for item in record.rounds if item.at_s is not None]

    with recording(tmp_path / "run", recipe, None, goes_on=False):
        pass
    began = read_record(tmp_path / "run").facts.started_at_s
    assert began is not None
    first = run((1, began + 10), (2, began + 30), goes_on=False)
    again = run((1, 9e9), (2, 9e9), (3, 9e9), goes_on=True)
    anew = run((1, 9e9), goes_on=False)

    assert again[:2] == pytest.approx(first, abs=0.01)
    assert again[2] > 1e9
    assert anew[0] > 1e9


def test_recording_that_cannot_go_on_keeps_the_rounds_and_their_times(
    recipe: Recipe, tmp_path: Path
) -> None:
    def elapsed() -> list[float]:
        record = read_record(tmp_path / "run")
        began = record.facts.started_at_s
        assert began is not None
        assert [item.round for item in record.rounds] == [1, 2]
        return [item.at_s - began for item in record.rounds if item.at_s is not None]

    def load() -> None:
        with recording(tmp_path / "run", recipe, None, goes_on=True):
            raise DataInvalid("is damaged")

    with recording(tmp_path / "run", recipe, None, goes_on=False) as kept:
        now_s = time.time()
        kept.add(result(1, now_s + 10))
        kept.add(result(2, now_s + 30))
    first = elapsed()
    for _ in range(2):
        with pytest.raises(DataInvalid):
            load()
        assert elapsed() == pytest.approx(first, abs=0.01)

    assert read_record(tmp_path / "run").facts.code == "DATA_INVALID"


def test_recording_keeps_what_results_depend_on(cli, tiny: Path, tmp_path: Path) -> None:
    devices = tmp_path / "devices.toml"
    devices.write_text('[[profiles]]\nname = "phone"\nshare = 1.0\nsamples_per_s = 50.0\n')
    argv = ("simulate", str(tiny), "--batch-workers", "2", "--data-dir", str(tmp_path))

    whole = cli(*argv, "--devices", str(devices), "--out", str(tmp_path / "whole"))
    plain = cli("simulate", str(tiny), "--out", str(tmp_path / "plain"))

    assert (whole.status, plain.status) == (0, 0)
    options = dict(read_record(tmp_path / "whole").facts.options)
    assert len(options.pop("devices")) == 12
    assert options == {"batch_workers": "2", "data_dir": str(tmp_path)}
    assert read_record(tmp_path / "plain").facts.options == {}


def test_options_tell_devices_apart_by_what_they_are() -> None:
    assert options_of(None, ["fast", "slow"]) == options_of(None, ["fast", "slow"])
    assert options_of(None, ["fast", "slow"]) != options_of(None, ["slow", "fast"])
    assert options_of(None, [], 1) == {}


def test_recording_writes_over_no_run_that_completed(recipe: Recipe, tmp_path: Path) -> None:
    with recording(tmp_path / "run", recipe, None, goes_on=False) as kept:
        kept.finish("completed")

    with (
        pytest.raises(AlreadyExists, match="name another folder"),
        recording(tmp_path / "run", recipe, None, goes_on=True),
    ):
        pass


def test_recording_writes_over_no_other_recipe(recipe: Recipe, tmp_path: Path) -> None:
    with recording(tmp_path / "run", recipe, None, goes_on=False):
        pass
    other = parse_recipe(recipe.source.replace("seed = 3", "seed = 4"))

    with (
        pytest.raises(AlreadyExists),
        recording(tmp_path / "run", other, None, goes_on=False),
    ):
        pass


def test_recording_into_a_file_is_refused(recipe: Recipe, tiny: Path) -> None:
    with (
        pytest.raises(SettingInvalid, match="--out"),
        recording(tiny / "below", recipe, None, goes_on=False),
    ):
        pass


@pytest.mark.slow
def test_simulation_that_was_interrupted_goes_on_in_its_record(
    cli, tiny: Path, tmp_path: Path
) -> None:
    rounds = 200
    tiny.write_text(tiny.read_text().replace("rounds = 2", f"rounds = {rounds}"))
    folder = tmp_path / "run"
    argv = ("simulate", str(tiny), "--out", str(folder), "--checkpoint", str(tmp_path / "kept"))
    process = subprocess.Popen(
        [sys.executable, "-m", "fedfleet.cli.main", *argv], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("round 1/")
        process.send_signal(signal.SIGINT)
    first = read_record(folder)

    result = cli(*argv)

    whole = read_record(folder)
    assert (process.returncode, result.status) == (130, 0)
    assert (first.facts.outcome, whole.facts.outcome) == ("interrupted", "completed")
    assert 1 <= len(first.rounds) < rounds
    assert [item.round for item in whole.rounds] == list(range(1, rounds + 1))
    assert whole.rounds[: len(first.rounds)] == [
        replace(item, at_s=again.at_s)
        for item, again in zip(first.rounds, whole.rounds, strict=False)
    ]
    times = [item.at_s for item in whole.rounds if item.at_s is not None]
    assert times == sorted(times)
    assert len(times) == rounds


def test_record_and_checkpoint_are_two_folders(cli, tiny: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "one")

    result = cli("simulate", str(tiny), "--out", folder, "--checkpoint", folder)

    assert result.err.startswith("fedfleet: SETTING_INVALID: --out and --checkpoint")


def test_data_map_is_none_where_devices_have_their_own_data(tiny: Path) -> None:
    own = tiny.read_text().replace('partition = "iid"\nworkers = 2\n', "")

    assert data_map(parse_recipe(own), None) is None
