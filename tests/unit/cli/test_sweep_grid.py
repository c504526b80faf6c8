from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cli.sweep_grid import _toml, grid
from fedfleet.errors import FedFleetError
from fedfleet.reports.settings import flat_settings, tomllib
from fedfleet.rounds.recipe import parse_recipe

VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.\u00e9 "), inner),
    max_leaves=8,
)


@pytest.fixture
def text(tiny: Path) -> str:
    return tiny.read_text()


def test_grid_has_every_combination_with_the_last_varying_fastest(text: str) -> None:
    runs = grid(text, ["training.lr=0.1,0.02", "seed=1,2"])

    assert [run.name for run in runs] == [
        *("lr=0.1,seed=1", "lr=0.1,seed=2", "lr=0.02,seed=1", "lr=0.02,seed=2"),
    ]
    assert runs[3].values == {"training.lr": 0.02, "seed": 2}


def test_grid_changes_what_is_set_and_nothing_else(text: str) -> None:
    [run] = grid(text, ["training.lr=0.5"])

    before, after = flat_settings(text), flat_settings(run.recipe)
    assert after == {**before, "training.lr": 0.5}
    assert parse_recipe(run.recipe).training.lr == 0.5


def test_grid_sets_what_the_recipe_leaves_out(text: str) -> None:
    runs = grid(text, ["algorithm.name=fedprox", "algorithm.mu=0.1,1"])

    assert [parse_recipe(run.recipe).algorithm.options.mu for run in runs] == [0.1, 1.0]


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("training.optimizer=sgd,adamw", ["sgd", "adamw"]),
        ('algorithm.name="fedavg"', ["fedavg"]),
        ("model.hidden=[8],[16, 4]", [[8], [16, 4]]),
        ("training.lr = 1e-2, 0.5", [0.01, 0.5]),
        ("evaluation.coordinator=true,false", [True, False]),
    ],
)
def test_grid_reads_values_as_toml_and_words_as_text(
    text: str, setting: str, values: list[object]
) -> None:
    assert [next(iter(run.values.values())) for run in grid(text, [setting])] == values


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        (["lr"], "SETTING_INVALID", "must be NAME=VALUE"),
        (["=1"], "SETTING_INVALID", "must be NAME=VALUE"),
        (["training.lr="], "SETTING_INVALID", "must be NAME=VALUE"),
        (["seed=1", "seed=2"], "SETTING_INVALID", "--set seed: is given twice"),
        (["seed=1,1"], "SETTING_INVALID", "given twice"),
        (["algorithm.name=fedavg,,fedsgd"], "SETTING_INVALID", "a value is empty"),
        (["seed.x=1"], "SETTING_INVALID", "seed is no table"),
        (["training.lr=0.1,-1"], "RECIPE_INVALID", "with training.lr = -1: training.lr"),
        (["training.lrr=1"], "RECIPE_INVALID", "with training.lrr = 1: training.lrr: unknown"),
        (["name=a\n[x]"], "RECIPE_INVALID", "with name = "),
        (
            [f"training.{name}={','.join(map(str, range(1, 200)))}" for name in ("lr", "epochs")],
            "SETTING_INVALID",
            "makes 39601 runs; at most 10000",
        ),
    ],
)
def test_grid_refuses_what_makes_no_runs(
    text: str, settings: list[str], code: str, says: str
) -> None:
    with pytest.raises(FedFleetError, match=re.escape(says)) as caught:
        grid(text, settings)

    assert caught.value.code == code


def test_grid_names_folders_that_any_file_system_takes_and_all_different(text: str) -> None:
    names = ["a", "b/../c", "b:..:c", "x" * 300, "x" * 301]
    quoted = ",".join(f'"{name}"' for name in names[:1])
    runs = grid(text, [f"name={quoted}"])
    odd = grid(text, ["model.hidden=[8],[8, 8],[8,9]", "data.partition=iid"])

    folders = [run.name for run in (*runs, *odd)]
    assert len(set(folders)) == len(folders)
    assert all(re.fullmatch(r"[A-Za-z0-9._=,+-]{1,100}", name) for name in folders)


@given(VALUES)
def test_toml_that_is_written_reads_as_the_value(value: object) -> None:
    assert tomllib.loads(f"value = {_toml(value)}")["value"] == value
