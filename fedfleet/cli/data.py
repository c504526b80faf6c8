"""``fedfleet data``: describe, partition.

Legend: W = shards (one per worker), C = classes.
"""

from __future__ import annotations

import json
import os
import pkgutil
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from fedfleet.cli.output import bars, console, fitting_table, plain, write_json
from fedfleet.cli.progress import working
from fedfleet.cli.recipes import load_recipe
from fedfleet.cli.settings import DataDir, Json, RecipeArgument, config_of, naming_folder
from fedfleet.data.images import Index
from fedfleet.data.shard import Shards
from fedfleet.data.summary import ShardRow, describe_partition
from fedfleet.errors import InvalidInput, NotInstalled, SettingInvalid
from fedfleet.rounds.recipe import Recipe

# More classes than these are drawn as bars only.
MOST_COLUMNS = 12
COMMONEST = 3
FORMATS = (".png", ".svg")
# Resolved only when a picture is asked for: it needs matplotlib, which is an extra.
_PLOT = "fedfleet.cli.data_plot:plot_partition"


def describe(
    context: typer.Context,
    recipe: RecipeArgument,
    data_dir: DataDir = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Also draw it, into a .png or .svg file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show who holds what."""
    draw = None if plot is None else _plotter(plot)
    parsed = load_recipe(recipe)
    folder = data_dir or config_of(context).data_dir
    shards = _shards(parsed, folder)
    classes = shards.spec.classes
    splitting = f"splitting {plain(parsed.data.dataset)}"
    with naming_folder(folder), working(console(), splitting, shown=not as_json):
        labels = shards.train.labels
        rows = describe_partition(labels, shards.indexes, classes, shards.owners, shards.boxes)
    if plot is not None and draw is not None:
        try:
            draw(
                plot.expanduser(), partition_title(parsed, rows), rows, classes, shards.spec.groups
            )
        except OSError as error:
            raise SettingInvalid(f"--plot {plot}: {error.strerror}") from error
    if as_json:
        write_json(
            {
                "dataset": parsed.data.dataset,
                "partition": parsed.data.partition,
                "seed": parsed.seed,
                "examples": len(labels),
                **({"boxes": _boxes(rows)} if _has_boxes(rows) else {}),
                "classes": list(classes),
                "shards": [row.to_json(classes) for row in rows],
            }
        )
    else:
        _print(console(), parsed, rows, classes)


def partition(
    context: typer.Context,
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write each shard's index as JSON."""
    parsed = load_recipe(recipe)
    if parsed.data.workers is None:
        raise InvalidInput('data.partition = "none": each worker\'s data are its own, not a shard')
    folder = data_dir or config_of(context).data_dir
    splitting = f"splitting {plain(parsed.data.dataset)}"
    with naming_folder(folder), working(console(), splitting, shown=not as_json):
        shards = _shards(parsed, folder).indexes
        paths = [_write(out.expanduser(), parsed, number, shards) for number in range(len(shards))]
    if as_json:
        write_json({"files": [str(path) for path in paths]})
    else:
        console().print(f"{len(paths)} files in {out}, {paths[0].name} to {paths[-1].name}")


def _shards(recipe: Recipe, data_dir: Path | None) -> Shards:
    return Shards(recipe.data, seed=recipe.seed, data_dir=data_dir)


def _plotter(path: Path) -> Any:
    """The function that draws. Any: it is found by name."""
    if path.suffix.lower() not in FORMATS:
        raise SettingInvalid(f"--plot {path}: the file's name must end in {' or '.join(FORMATS)}")
    try:
        return pkgutil.resolve_name(_PLOT)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        raise NotInstalled.of_extra("--plot: matplotlib", "report") from error


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


def partition_title(recipe: Recipe, rows: list[ShardRow]) -> str:
    """The data set and how it is split, in a line."""
    data = recipe.data
    setting: str = data.partition
    for value in (data.alpha, data.fine_alpha, data.classes_per_worker, data.shards_per_worker):
        setting += "" if value is None else f" {value:g}"
    if data.feature_noise is not None:
        setting += f", feature noise up to {data.feature_noise:g}"
        if data.noisy_workers is not None:
            setting += f" on the last {data.noisy_workers}"
    examples = f"{sum(row.examples for row in rows)} training examples"
    if _has_boxes(rows):
        examples += f" with {_boxes(rows)} boxes"
    return f"{data.dataset}, {examples}, partition {setting}, seed {recipe.seed}"


def _has_boxes(rows: list[ShardRow]) -> bool:
    return any(row.boxes is not None for row in rows)


def _boxes(rows: list[ShardRow]) -> int:
    return sum(row.boxes or 0 for row in rows)


def _print(out: Console, recipe: Recipe, rows: list[ShardRow], classes: tuple[str, ...]) -> None:
    names = classes if len(classes) <= MOST_COLUMNS else ()
    has_boxes = _has_boxes(rows)
    sizes = ("examples", "boxes") if has_boxes else ("examples",)
    right = ("worker", *sizes, "classes", "entropy", "skew")
    most = max(max(row.per_class) for row in rows)
    # Either a column for each class, or the commonest ones by name.
    last = names or (f"most {sizes[-1]} of",)
    has_owners = any(row.owners for row in rows)
    table = fitting_table(
        out,
        partition_title(recipe, rows),
        (*right, "mix", *last, *(("belong to",) if has_owners else ())),
        [
            (
                str(row.shard),
                str(row.examples),
                *((str(row.boxes),) if has_boxes else ()),
                str(row.classes_held),
                f"{row.entropy:.2f}",
                f"{row.skew:.2f}",
                bars(row.per_class, most=most, encoding=out.encoding),
                *(map(str, row.per_class) if names else (_commonest(row, classes),)),
                *((_brief(row.owners),) if has_owners else ()),
            )
            for row in rows
        ],
        right=(*right, *names),
        leave_out=() if names else last,
    )
    out.print(table)
    out.print(
        f"mix: one bar per class, of one scale{', its boxes counted' if has_boxes else ''}; "
        "entropy: of the labels, in bits; "
        "skew: 0 = everybody's mix, 1 = nothing of it"
    )


def _commonest(row: ShardRow, classes: tuple[str, ...]) -> str:
    """The classes of which a shard holds most, with how many."""
    order = sorted(range(len(classes)), key=lambda label: -row.per_class[label])[:COMMONEST]
    held = [label for label in order if row.per_class[label]]
    return ", ".join(f"{plain(classes[label])} {row.per_class[label]}" for label in held)


def _brief(owners: tuple[str, ...]) -> str:
    """The first owner's name, and how many others there are."""
    if not owners:
        return ""
    others = f" and {len(owners) - 1} more" if len(owners) > 1 else ""
    return plain(owners[0])[:40] + others
