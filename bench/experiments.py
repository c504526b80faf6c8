"""Runs the experiments of docs/results.md, one after the other: ``experiments.py NAME ...``.

What was run is kept in build/experiments/NAME.json, run by run: started again, it goes on
where it was (or with a run whose recipe has changed), and then writes the experiment's table into
docs/results.md. ``--list`` names the experiments, ``--page`` writes the tables only. Needs the data
sets: FEDFLEET_DATA_DIR names their folder (default: ../shared/data beside the checkout).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiment_list import EXPERIMENTS, Changes, Experiment, Measure
from experiment_page import write_table
from record import ROOT, commit, processor

from fedfleet.algorithms.base import Memory
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.checkpoint import Checkpoint
from fedfleet.sim.driver import simulate
from fedfleet.sim.memories import Memories
from fedfleet.sim.outcome import SimulatedRound
from fedfleet.training.local import LocalTrainer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = ROOT / "recipes"


class Incomplete(Exception):
    """A run ended before its last round."""


def recipe_text(experiment: Experiment, changes: Changes, seed: int) -> str:
    """The recipe of a run, as TOML."""
    tables: dict[str, Any] = tomllib.loads((RECIPES / experiment.recipe).read_text())
    for name, value in {**changes, "seed": seed}.items():
        table, _, field = name.rpartition(".")
        into = tables.setdefault(table, {}) if table else tables
        if value is None:
            del into[field]
        else:
            into[field] = value
    return "".join(_lines(tables))


def _lines(tables: Mapping[str, Any]) -> list[str]:
    """JSON writes texts, numbers, truth values and lists as TOML does."""
    plain = [f"{key} = {json.dumps(v)}\n" for key, v in tables.items() if not isinstance(v, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            plain += [f"\n[{name}]\n", *(f"{key} = {json.dumps(v)}\n" for key, v in table.items())]
    return plain


def run_one(text: str, data_dir: Path, folder: Path, measure: Measure | None) -> dict[str, Any]:
    """Simulate one run in this process.

    Args:
        folder: keeps it while it runs; it goes on where it was cut off.
    """
    recipe = parse_recipe(text)
    begun, cpu = time.perf_counter(), time.process_time()

    def on_round(done: SimulatedRound) -> None:
        shown = "" if done.evaluation is None else f"  accuracy {done.evaluation.accuracy:.4f}"
        sys.stderr.write(f"\r  round {done.round}/{recipe.rounds.rounds}{shown} ")

    simulation = simulate(recipe, data_dir, on_round, checkpoint=folder)
    if simulation.outcome != "completed":
        raise Incomplete(f"{simulation.code}: {simulation.reason}")
    evaluated = [(done.round, done.evaluation) for done in simulation.rounds if done.evaluation]
    extra = measure(recipe, memory_of(recipe, folder), data_dir) if measure else {}
    shutil.rmtree(folder)
    return {
        "extra": extra,
        "by_round": {str(round): round_to(one.accuracy) for round, one in evaluated},
        "losses": {str(round): round_to(one.loss) for round, one in evaluated},
        "examples": sum(done.weight for done in simulation.rounds) * recipe.training.epochs,
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "load": round(os.getloadavg()[0], 1),
        "commit": commit(),
    }


def memory_of(recipe: Recipe, folder: Path) -> Memory:
    """What the algorithm's coordinator half kept at the end of a run."""
    trainer = LocalTrainer(card_of(recipe), recipe.training, recipe.evaluation)
    kept = Checkpoint(folder, recipe, trainer.schema).load(Memories())
    assert kept is not None
    return kept.coordinator.memory


def round_to(value: float) -> float:
    return round(value, 4)


def run(experiment: Experiment, data_dir: Path, kept: Path) -> dict[str, Any]:
    """Carry out what is missing of an experiment; returns all of it."""
    known = json.loads(kept.read_text()) if kept.exists() else {"runs": {}}
    results: dict[str, Any] = {
        "experiment": experiment.name,
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "runs": {},
    }
    for key, text in texts(experiment):
        digest = digest_of(text)
        found = known["runs"].get(key)
        if found is None or found["recipe"] != digest:
            sys.stderr.write(f"{experiment.name}: {key}\n")
            folder = kept.parent / digest[:16]
            found = {
                "recipe": digest,
                **run_one(text, data_dir, folder, experiment.measure),
            }
            sys.stderr.write(f"\n  in {found['seconds']} s\n")
        results["runs"][key] = known["runs"][key] = found
        _replace(kept, {**results, "runs": {**known["runs"], **results["runs"]}})
    _replace(kept, results)
    return results


def texts(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """The name and the recipe of each run, seed by seed."""
    for seed in experiment.seeds:
        for label, changes in experiment.variants.items():
            yield f"{label} / seed {seed}", recipe_text(experiment, changes, seed)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def kept_results(experiment: Experiment, kept: Path) -> dict[str, Any]:
    """What was run of an experiment as it is now: none of a recipe that has changed."""
    results: dict[str, Any] = json.loads(kept.read_text())
    digests = {key: digest_of(text) for key, text in texts(experiment)}
    runs = results["runs"].items()
    return {**results, "runs": {k: one for k, one in runs if digests.get(k) == one["recipe"]}}


def _replace(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=1) + "\n")
    fresh.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is given")
    parser.add_argument("--list", action="store_true", help="name the experiments")
    parser.add_argument("--page", action="store_true", help="write tables from what was run")
    options = parser.parse_args()
    unknown = set(options.names) - set(EXPERIMENTS)
    if unknown:
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}; --list names them")
    if options.list:
        for one in EXPERIMENTS.values():
            print(f"{one.name:14} {one.title} ({len(one.variants) * len(one.seeds)} runs)")
        return
    data_dir = Path(os.environ.get("FEDFLEET_DATA_DIR", ROOT.parent / "shared" / "data"))
    failed = []
    for name in options.names or EXPERIMENTS:
        kept = ROOT / "build" / "experiments" / f"{name}.json"
        if options.page and not kept.exists():
            continue
        try:
            experiment = EXPERIMENTS[name]
            if options.page:
                write_table(experiment, kept_results(experiment, kept))
            else:
                write_table(experiment, run(experiment, data_dir, kept))
        except Incomplete as error:
            failed.append(f"{name}: a run did not complete: {error}")
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
