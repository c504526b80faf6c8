"""The experiments of bench/: each variant is a valid recipe and has its place on the page."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from fedfleet.rounds.recipe import parse_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("experiments")


def test_every_variant_is_a_valid_recipe_unlike_all_others(bench: ModuleType) -> None:
    texts = [
        bench.recipe_text(experiment, changes, seed)
        for experiment in bench.EXPERIMENTS.values()
        for changes in experiment.variants.values()
        for seed in experiment.seeds
    ]

    for text in texts:
        parse_recipe(text)
    assert len(set(texts)) == len(texts) > 40


def test_base_recipes_are_valid_and_used(bench: ModuleType) -> None:
    used = {bench.RECIPES / experiment.recipe for experiment in bench.EXPERIMENTS.values()}

    assert {*(ROOT / "recipes" / "experiments").glob("*.toml")} <= used
    for path in used:
        parse_recipe(path.read_text())


def test_page_has_a_place_for_each_experiment(bench: ModuleType) -> None:
    page = (ROOT / "docs" / "results.md").read_text()

    for name in bench.EXPERIMENTS:
        assert page.count(f"<!-- experiment: {name} -->\n") == 1
    assert page.count("<!-- experiment: ") == page.count("<!-- end -->") == len(bench.EXPERIMENTS)


def test_run_is_carried_out_once_and_kept(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"data.workers": 10, "rounds.rounds": 2, "rounds.cohort": 2, "training.epochs": 1}
    experiment = importlib.import_module("experiment_list").Experiment(
        name="short",
        title="",
        recipe="experiments/digits.toml",
        variants={"one": short},
        target=0.01,
    )
    kept = tmp_path / "short.json"

    first = bench.run(experiment, tmp_path, kept)
    monkeypatch.setattr(bench, "run_one", None)  # nothing is left to carry out
    again = bench.run(experiment, tmp_path, kept)

    assert again == first
    (run,) = first["runs"].values()
    assert [*run["by_round"]] == ["1", "2"]
    assert [path.name for path in tmp_path.iterdir()] == ["short.json"]
    page = importlib.import_module("experiment_page")
    found = page.found_of(experiment, first["runs"])
    assert found["one"].rounds_to == (1.0,)
    assert found["one"].accuracy == (pytest.approx(sum(run["by_round"].values()) / 2),)
    (row,) = [line for line in page.lines(experiment, first) if line.startswith("| one |")]
    assert row == f"| one | {100 * found['one'].accuracy[0]:.1f} % | 1 |"
