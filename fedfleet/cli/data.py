"""``fedfleet data``: describe, partition.

Legend: W = shards (one per worker), C = classes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedfleet.cli.output import bars, console, make_table, write_json
from fedfleet.cli.recipes import load_recipe
from fedfleet.cli.settings import DataDir, Json, config_of
from fedfleet.data.catalog import describe as describe_dataset
from fedfleet.data.catalog import open_dataset
from fedfleet.data.images import Index, Labels
from fedfleet.data.partition import partition as split
from fedfleet.data.summary import ShardRow, describe_partition
from fedfleet.errors import InvalidInput, SettingInvalid
from fedfleet.rounds.recipe import Recipe

# More classes than these are drawn as bars only.
MOST_COLUMNS = 12

RecipeOption = Annotated[
    str,
    typer.Option("--recipe", metavar="RECIPE", help="A recipe's file, or a shipped one's name."),
]


def describe(
    context: typer.Context,
    recipe: RecipeOption,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show who holds what."""
    parsed = load_recipe(recipe)
    labels, shards = _shards(parsed, data_dir or config_of(context).data_dir)
    classes = describe_dataset(parsed.data).classes
    rows = describe_partition(labels, shards, classes)
    if as_json:
        write_json(
            {
                "dataset": parsed.data.dataset,
                "partition": parsed.data.partition,
                "seed": parsed.seed,
                "examples": len(labels),
                "classes": list(classes),
                "shards": [row.to_json(classes) for row in rows],
            }
        )
        return
    _print(console(), parsed, rows, classes)


def partition(
    context: typer.Context,
    recipe: RecipeOption,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write each shard's index as JSON."""
    parsed = load_recipe(recipe)
    if parsed.data.workers is None:
        raise InvalidInput('data.partition = "none": each worker\'s data are its own, not a shard')
    _, shards = _shards(parsed, data_dir or config_of(context).data_dir)
    paths = [_write(out.expanduser(), parsed, number, shards) for number in range(len(shards))]
    if as_json:
        write_json({"files": [str(path) for path in paths]})
    else:
        console().print(f"{len(paths)} files in {out}, {paths[0].name} to {paths[-1].name}")


def _shards(recipe: Recipe, data_dir: Path | None) -> tuple[Labels, list[Index]]:
    """The training labels, and each shard's index into them."""
    labels = open_dataset(recipe.data, "train", data_dir).labels
    classes = describe_dataset(recipe.data).classes
    return labels, split(labels, recipe.data, len(classes), recipe.seed)


def _write(folder: Path, recipe: Recipe, number: int, shards: list[Index]) -> Path:
    """Write one shard's file, whole or not at all."""
    path = folder / f"shard-{number:04d}.json"
    document = {
        "dataset": recipe.data.dataset,
        "split": "train",
        "partition": recipe.data.partition,
        "seed": recipe.seed,
        "shard": number,
        "workers": len(shards),
        "index": shards[number].tolist(),
    }
    partial = path.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(document) + "\n", encoding="ascii")
        os.replace(partial, path)  # noqa: PTH105 - the name says what it does
    except OSError as error:
        raise SettingInvalid(f"--out {folder}: {error.strerror}") from error
    return path


def _print(out: Console, recipe: Recipe, rows: list[ShardRow], classes: tuple[str, ...]) -> None:
    are_few = len(classes) <= MOST_COLUMNS
    names = classes if are_few else ()
    right = ("worker", "examples", "classes", "skew")
    setting: str = recipe.data.partition
    if recipe.data.alpha is not None:
        setting += f" {recipe.data.alpha:g}"
    table = make_table(
        f"{recipe.data.dataset}, {sum(row.examples for row in rows)} training examples, "
        f"partition {setting}, seed {recipe.seed}",
        (*right, "mix", *names),
        right=(*right, *names),
    )
    most = max(max(row.per_class) for row in rows)
    for row in rows:
        table.add_row(
            str(row.shard),
            str(row.examples),
            str(row.classes_held),
            f"{row.skew:.2f}",
            bars(row.per_class, most=most, encoding=out.encoding),
            *([str(count) for count in row.per_class] if are_few else ()),
        )
    out.print(table)
    out.print("mix: one bar per class, of one scale; skew: 0 = everybody's mix, 1 = nothing of it")
