"""``fedfleet simulate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedfleet.cli.output import console, number, percent, size, write_json
from fedfleet.cli.recipes import load_recipe
from fedfleet.cli.report import RoundResult, print_result, print_rounds, print_traffic
from fedfleet.cli.settings import DataDir, Json, RecipeArgument, config_of
from fedfleet.errors import FedFleetError, error_for_code

if TYPE_CHECKING:
    from fedfleet.sim.inprocess import SimulatedRound, Simulation


def simulate(
    context: typer.Context,
    recipe: RecipeArgument,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run a recipe in this process, without a network."""
    parsed = load_recipe(recipe)
    # Here and not above: it imports torch, which --help and a wrong recipe need not wait for.
    from fedfleet.sim.inprocess import simulate as run_simulation

    folder = data_dir or config_of(context).data_dir
    out = console()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[result]}"),
        TimeElapsedColumn(),
        console=out,
        disable=as_json or not out.is_terminal,
    )
    with bar:
        task = bar.add_task("rounds", total=parsed.rounds.rounds, result="")

        def on_round(done: SimulatedRound) -> None:
            bar.update(task, completed=done.round, result=_brief(done))
            if not as_json and not out.is_terminal:
                out.print(f"round {done.round}/{parsed.rounds.rounds}  {_brief(done)}")

        simulation = run_simulation(parsed, folder, on_round)
    rounds = [_result(item) for item in simulation.rounds]
    if as_json:
        write_json(
            {
                "model": parsed.name,
                "outcome": simulation.outcome,
                "code": simulation.code,
                "reason": simulation.reason,
                "classes": list(simulation.classes),
                "round_results": [item.to_json() for item in rounds],
            }
        )
    else:
        if out.is_terminal:  # where the bar has shown the last round only
            print_rounds(out, rounds)
        print_result(out, rounds, simulation.classes)
        if not out.is_terminal:
            print_traffic(out, rounds)
    _raise_if_failed(simulation)


def _brief(done: SimulatedRound) -> str:
    moved = f"{size(done.bytes_up)} up  {size(done.bytes_down)} down"
    if done.evaluation is None:
        return f"train loss {number(done.metrics.get('train_loss'))}  {moved}"
    evaluated = done.evaluation
    return f"accuracy {percent(evaluated.accuracy)}  loss {number(evaluated.loss)}  {moved}"


def _result(done: SimulatedRound) -> RoundResult:
    return RoundResult(
        round=done.round,
        version=None,
        duration_s=None,
        updates=len(done.workers),
        weight=done.weight,
        metrics=done.metrics,
        bytes_up=done.bytes_up,
        bytes_down=done.bytes_down,
        evaluation=done.evaluation,
        worker_evaluations=done.worker_evaluations,
    )


def _raise_if_failed(simulation: Simulation) -> None:
    if simulation.outcome == "failed":
        raise error_for_code(simulation.code, f"the simulation failed: {simulation.reason}")
    if simulation.outcome != "completed":
        raise FedFleetError(f"the simulation is {simulation.outcome}: {simulation.reason}")
