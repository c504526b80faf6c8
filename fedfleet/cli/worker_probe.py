"""``fedfleet worker probe``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from fedfleet.cli.documents import Document
from fedfleet.cli.output import console, make_table, number, size, write_json
from fedfleet.cli.recipes import load_recipe
from fedfleet.cli.settings import Json, RecipeArgument
from fedfleet.rounds.card import card_of
from fedfleet.rounds.levels import LevelsConfig
from fedfleet.training.level_probe import LevelFigures, ProbeTask, measure_levels

# Longer than a worker takes, whose coordinator waits for it.
SECONDS = 20.0
SAMPLES = 1000


def probe(
    recipe: RecipeArgument,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1, max=3600.0, help="How long to measure, all levels together, in seconds."
        ),
    ] = SECONDS,
    samples: Annotated[
        int, typer.Option(min=1, help="Examples that a round is reckoned with.")
    ] = SAMPLES,
    threads: Annotated[
        int, typer.Option(min=0, help="Most threads; 0 leaves torch's own choice.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Measure how fast this machine trains each level of a recipe's model."""
    chosen = load_recipe(recipe)
    levels = chosen.levels or LevelsConfig()
    task = ProbeTask(
        card=card_of(chosen),
        training=chosen.training,
        rates=levels.rates,
        scaler=levels.scaler,
    )
    figures = measure_levels(task, seconds=seconds, threads=threads)
    trained = samples * chosen.training.epochs
    if as_json:
        documents = [level_document(one, trained) for one in figures]
        write_json({"model_digest": task.digest, "samples": samples, "levels": documents})
        return
    out = console()
    epochs = chosen.training.epochs
    work = f"{samples} examples, {epochs} epoch{'s' if epochs > 1 else ''}"
    columns = ("level", "rate", "parameters", "examples/s", "memory", work)
    table = make_table("", columns, right=columns[1:])
    for one in figures:
        table.add_row(*_row(one, trained))
    out.print(table)
    missing = levels.names[: len(levels.rates) - len(figures)]
    if missing:
        out.print(_left_out(missing, figures, seconds))


def level_document(figures: LevelFigures, trained: float) -> Document:
    """What was measured at one level, as JSON.

    Args:
        trained: examples of a round, times its epochs.
    """
    return {
        "level": figures.level,
        "rate": figures.rate,
        "parameters": figures.parameters,
        "samples_per_s": figures.samples_per_s,
        "memory_bytes": figures.memory_bytes,
        "out_of_memory": not figures.samples_per_s,
        "round_s": trained / figures.samples_per_s if figures.samples_per_s else None,
    }


def _left_out(missing: Sequence[str], figures: Sequence[LevelFigures], seconds: float) -> str:
    """Why wider levels were not measured; the figures are from the widest that was reached down."""
    names, reached = ", ".join(missing), figures[0]
    if not reached.samples_per_s:
        return f"Not tried: {names}. They take more memory than {reached.level}."
    return f"Not reached in {seconds:g} s: {names}. More --seconds reach more."


def _row(figures: LevelFigures, trained: float) -> tuple[str, ...]:
    fits = figures.samples_per_s > 0
    return (
        figures.level,
        f"{figures.rate:g}",
        f"{figures.parameters:,}" if fits else "-",
        number(figures.samples_per_s) if fits else "out of memory",
        size(figures.memory_bytes) if figures.memory_bytes else "-",
        f"{number(trained / figures.samples_per_s)} s" if fits else "-",
    )
