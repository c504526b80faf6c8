from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from fedfleet.errors import DataInvalid, SettingInvalid, StateInUse
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.devices import DeviceProfile
from fedfleet.sim.driver import simulate
from fedfleet.sim.outcome import SimulatedRound, Simulation
from fedfleet.types import Kind

RECIPE = """
name = "kept"
seed = {seed}
[model]
architecture = "cnn"
width = 0.1
norm = "batch"
[data]
dataset = "digits"
partition = "dirichlet"
alpha = 1.0
workers = 6
{data}
[training]
batch_size = 32
momentum = 0.5
threads = 1
{training}
[rounds]
rounds = 5
{rounds}
[evaluation]
every = 2
workers = "cohort"
{rest}
"""
SMALL = """
name = "small"
[model]
architecture = "mlp"
hidden = [4]
[data]
dataset = "synthetic"
partition = "iid"
workers = 4
[training]
threads = 1
[rounds]
rounds = 3
cohort = 4
"""
SEQUENCES = """[algorithm]
name = "fedseq"
share = 1.0
min_examples = 300
grouping_epochs = 1
"""
# Each keeps something else from round to round.
KINDS = {
    "nothing": {},
    "both sides": {"rest": '[algorithm]\nname = "scaffold"'},
    "another state is published": {"rest": '[algorithm]\nname = "feddyn"\nalpha = 0.1'},
    "moments": {"rest": '[algorithm]\nname = "fedadam"\n[wire]\nuplink = "topk:0.1|int8"'},
    "layers": {"rest": '[algorithm]\nname = "fedbn"'},
    "the ladder": {"rest": '[wire]\ndownlink = "topk:0.1|int8"'},
    "statistics of levels": {
        "rounds": "cohort = 6",
        "rest": '[algorithm]\nname = "heterofl"\n[levels]\nrates = [1.0, 0.5]',
    },
    "schedules": {"training": 'scheduler = "plateau"\nplateau_patience = 0'},
    "the past of workers": {"rounds": 'cohort = 3\nselection = "oort"'},
    "groups": {"rounds": "cohort = 6\nquorum = 1", "rest": SEQUENCES},
    "a bank of models": {
        "rounds": "cohort = 6\nquorum = 1",
        "rest": SEQUENCES + "interval = 3",
    },
    "clusters": {
        "data": "feature_noise = 1.0\nnoisy_workers = 3",
        "rounds": "cohort = 2",
        "rest": '[algorithm]\nname = "fedgwc"\ntolerance = 1e3\ngamma = 5.0',
    },
}


def recipe(seed: int = 1, **parts: str) -> Recipe:
    usual = {"data": "", "training": "", "rounds": "cohort = 3", "rest": ""}
    return parse_recipe(RECIPE.format(seed=seed, **{**usual, **parts}))


class CutOff(Exception):
    """The machine was taken away."""


def cut_off(done: SimulatedRound) -> None:
    if done.round == 2:
        raise CutOff


def cut_off_after(round: int, run: Recipe, folder: Path) -> None:
    def on_round(done: SimulatedRound) -> None:
        if done.round == round:
            raise CutOff

    with pytest.raises(CutOff):
        simulate(run, on_round=on_round, checkpoint=folder)


def everything(simulation: Simulation) -> tuple[object, ...]:
    state = simulation.state
    return (
        [state.vector(kind).tobytes() for kind in Kind],
        {level: one.tobytes() for level, one in simulation.levels.items()},
        [asdict(one) for one in simulation.rounds],
        simulation.outcome,
        simulation.classes,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_run_that_was_cut_off_ends_as_an_undisturbed_one_bit_for_bit(
    kind: str, tmp_path: Path
) -> None:
    run = recipe(**KINDS[kind])
    undisturbed = simulate(run)
    heard: list[int] = []

    cut_off_after(2, run, tmp_path)
    cut_off_after(3, run, tmp_path)
    resumed = simulate(run, on_round=lambda done: heard.append(done.round), checkpoint=tmp_path)

    assert everything(resumed) == everything(undisturbed)
    assert heard == [1, 2, 3, 4, 5]
    assert everything(simulate(run, checkpoint=tmp_path)) == everything(undisturbed)
    assert sorted(undisturbed.levels) == (["b"] if kind == "statistics of levels" else [])


def test_run_in_virtual_time_goes_on_at_its_time_and_with_its_devices_only(tmp_path: Path) -> None:
    run = recipe(rounds='cohort = 3\nover_select = 2\nselection = "oort"')
    devices = [
        DeviceProfile(name=name, share=0.5, samples_per_s=rate)
        for name, rate in (("fast", 1000.0), ("slow", 70.0))
    ]
    undisturbed = simulate(run, devices=devices)

    with pytest.raises(CutOff):
        simulate(run, on_round=cut_off, checkpoint=tmp_path, devices=devices)
    with pytest.raises(SettingInvalid, match="another recipe"):
        simulate(run, checkpoint=tmp_path)
    resumed = simulate(run, checkpoint=tmp_path, devices=devices)

    assert everything(resumed) == everything(undisturbed)
    times = [done.virtual_s for done in resumed.rounds]
    assert times == sorted(times)
    assert times[0] is not None


def test_files_of_earlier_rounds_are_deleted(tmp_path: Path) -> None:
    simulate(recipe(**KINDS["both sides"]), checkpoint=tmp_path)

    index = json.loads((tmp_path / "checkpoint.json").read_text())

    assert {path.name for path in tmp_path.iterdir()} == {
        "owner.lock",
        "checkpoint.json",
        "rounds.jsonl",
        *index["files"],
    }
    assert set(index["workers"]) <= {f"worker-{i}" for i in range(6)}
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == 5


def test_run_that_dies_while_it_keeps_a_round_goes_on_with_the_one_before(tmp_path: Path) -> None:
    run = recipe(**KINDS["both sides"])
    cut_off_after(2, run, tmp_path / "now")
    shutil.copytree(tmp_path / "now", tmp_path / "before")
    cut_off_after(3, run, tmp_path / "now")
    # All of round 3 is written, but for the index that makes it count.
    for path in (tmp_path / "now").iterdir():
        if path.name != "checkpoint.json":
            shutil.copy(path, tmp_path / "before")

    resumed = simulate(run, checkpoint=tmp_path / "before")

    assert everything(resumed) == everything(simulate(run))


def test_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    cut_off_after(1, recipe(seed=1), tmp_path)

    with pytest.raises(SettingInvalid, match="holds a run of another recipe"):
        simulate(recipe(seed=2), checkpoint=tmp_path)


@pytest.mark.parametrize("broken", ["state-1.safetensors", "memory-1.safetensors", "rounds.jsonl"])
@pytest.mark.parametrize("text", [None, b"nonsense"])
def test_damaged_folder_is_refused(broken: str, text: bytes | None, tmp_path: Path) -> None:
    cut_off_after(1, recipe(), tmp_path)
    (tmp_path / broken).unlink()
    if text is not None:
        (tmp_path / broken).write_bytes(text)

    with pytest.raises(DataInvalid, match="is damaged or cannot be read"):
        simulate(recipe(), checkpoint=tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"format": 1}', "{", "[" * 100_000])
def test_index_that_is_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text(text)

    with pytest.raises(DataInvalid, match="is damaged or cannot be read"):
        simulate(recipe(), checkpoint=tmp_path)


def test_index_whose_parts_are_something_else_is_refused(tmp_path: Path) -> None:
    cut_off_after(1, recipe(), tmp_path)
    index = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps({**index, "workers": []}))

    with pytest.raises(DataInvalid, match="is damaged or cannot be read"):
        simulate(recipe(), checkpoint=tmp_path)


def test_folder_of_a_run_with_another_batch_is_refused(tmp_path: Path) -> None:
    run = parse_recipe(SMALL)
    with pytest.raises(CutOff):
        simulate(run, on_round=cut_off, checkpoint=tmp_path, batch_workers=2)

    for other in (1, 3):
        with pytest.raises(SettingInvalid, match="--batch-workers"):
            simulate(run, checkpoint=tmp_path, batch_workers=other)
    resumed = simulate(run, checkpoint=tmp_path, batch_workers=2)

    assert everything(resumed) == everything(simulate(run, batch_workers=2))


def test_folder_of_a_run_that_goes_on_is_refused(tmp_path: Path) -> None:
    refused: list[str] = []

    def on_round(done: SimulatedRound) -> None:
        # A file that is opened once more is another owner, in the same process too.
        with pytest.raises(StateInUse) as caught:
            simulate(parse_recipe(SMALL), checkpoint=tmp_path)
        refused.append(caught.value.message)

    simulation = simulate(parse_recipe(SMALL), on_round=on_round, checkpoint=tmp_path)

    assert simulation.outcome == "completed"
    assert len(refused) == 3
    assert refused[0].startswith(f"--checkpoint {tmp_path}: is in use by another process")
    assert "\n" not in refused[0]


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SettingInvalid, match="cannot be made: Not a directory"):
        simulate(parse_recipe(SMALL), checkpoint=tmp_path / "file" / "below")
