"""``fedfleet run``: submit, list, show, watch, stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Optional

import typer

from fedfleet.cli.documents import (
    Document,
    event_document,
    is_over,
    run_document,
    state_name,
)
from fedfleet.cli.output import (
    ago,
    console,
    local_time,
    make_table,
    number,
    percent,
    plain,
    write_json,
)
from fedfleet.cli.progress import progress, working
from fedfleet.cli.recipes import read_recipe
from fedfleet.cli.report import print_result, print_rounds, round_result
from fedfleet.cli.session import START_S, connect
from fedfleet.cli.settings import Coordinator, Json, RecipeArgument
from fedfleet.errors import FedFleetError, NotFound, error_for_code
from fedfleet.reports.measures import hits_name
from fedfleet.reports.settings import is_detector
from fedfleet.rpc.control import ControlClient
from fedfleet.types import MAP50
from fedfleet.v1 import control_service_pb2 as pb

# Optional[...]: Typer evaluates it, on Python 3.10 too.
RunId = Annotated[
    Optional[str],  # noqa: UP045
    typer.Argument(metavar="RUN", help="A run's id; the newest run where left out."),
]


def submit(
    context: typer.Context,
    recipe: RecipeArgument,
    follow: Annotated[
        bool, typer.Option("--watch", help="Then follow the run until it ends.")
    ] = False,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Queue a run of a recipe."""
    text = read_recipe(recipe)
    with connect(context, coordinator, patience_s=START_S) as client:
        run = client.submit_run(text)
        if as_json:
            write_json(run_document(run), indent=None if follow else 2)
        else:
            out = console()
            out.print(f"{run.run_id}: {run.rounds} rounds of {run.model}, {state_name(run.state)}")
        if follow:
            _follow(client, run.run_id, as_json)


def list_runs(
    context: typer.Context, coordinator: Coordinator = None, as_json: Json = False
) -> None:
    """List the runs, newest first."""
    with connect(context, coordinator) as client:
        runs = client.list_runs()
    if as_json:
        write_json({"runs": [run_document(run) for run in runs]})
        return
    table = make_table("", ("run", "model", "state", "round", "submitted", "why"), right=("round",))
    for run in runs:
        table.add_row(
            run.run_id,
            run.model,
            state_name(run.state),
            f"{run.round}/{run.rounds}",
            ago(run.created_at_s),
            _why(run),
        )
    console().print(table if runs else "No run was submitted yet.")


def show(
    context: typer.Context,
    run: RunId = None,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Show a run, its rounds and its last result."""
    with connect(context, coordinator) as client:
        response = client.get_run(run or _newest(client))
    rounds = [round_result(summary) for summary in response.rounds]
    if as_json:
        document: Document = {
            **run_document(response.run),
            "recipe": response.run.recipe,
            "classes": list(response.classes),
            "round_results": [item.to_json() for item in rounds],
        }
        write_json(document)
        return
    out = console()
    found = response.run
    out.print(
        f"{found.run_id}: {found.model}, {state_name(found.state)}, "
        f"round {found.round} of {found.rounds}, submitted {local_time(found.created_at_s)}"
    )
    if found.reason:
        out.print(_why(found))
    if rounds:
        of_detector = is_detector(found.recipe)
        print_rounds(out, rounds, of_detector=of_detector)
        print_result(out, rounds, response.classes, of_detector=of_detector)


def watch(
    context: typer.Context,
    run: RunId = None,
    coordinator: Coordinator = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document per event and line.")
    ] = False,
) -> None:
    """Follow a run's events until it ends."""
    with connect(context, coordinator) as client:
        run_id = run or _newest(client)
        client.get_run(run_id)  # says at once when there is no such run or no coordinator
        _follow(client, run_id, as_json)


def stop(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """End a run; its versions stay."""
    with connect(context, coordinator) as client:
        client.stop_run(run)
        with working(console(), "waiting for the end of the round", shown=not as_json):
            for _ in client.watch_run(run):
                pass  # a round that is being committed ends first
        stopped = client.get_run(run).run
    if as_json:
        write_json(run_document(stopped))
    else:
        console().print(f"{stopped.run_id}: {state_name(stopped.state)}")


def raise_if_failed(run: pb.Run) -> None:
    """Raise the error for which a run failed or was stopped before its end."""
    if run.state == pb.RUN_STATE_FAILED:
        raise error_for_code(run.code, f"run {run.run_id} failed: {run.reason}")
    if is_over(run.state) and run.state != pb.RUN_STATE_COMPLETED:
        raise FedFleetError(f"run {run.run_id} is {state_name(run.state)}: {run.reason}")


def _newest(client: ControlClient) -> str:
    runs = client.list_runs()
    if not runs:
        raise NotFound("there is no run yet; submit one: fedfleet run submit RECIPE")
    return runs[0].run_id


def _why(run: pb.Run) -> str:
    return plain(f"{run.code}: {run.reason}" if run.code else run.reason)


def _follow(client: ControlClient, run_id: str, as_json: bool) -> None:
    """Print events as they come; raises where the run did not complete."""
    out = console()
    with progress(out, shown=not as_json) as bar:
        run = client.get_run(run_id).run
        of_detector = is_detector(run.recipe)
        task = bar.add_task("rounds", total=run.rounds, result="")
        for event in client.watch_run(run_id):
            document = event_document(event)
            if as_json:
                write_json(document, indent=None)
                continue
            if event.kind == "round_committed":
                bar.update(task, completed=event.round)
            clock = local_time(event.at_s).partition(" ")[2]
            brief = _brief(document["fields"], of_detector)
            out.print(f"{clock}  round {event.round:<4} {event.kind:<20} {brief}")
            sys.stdout.flush()
    raise_if_failed(client.get_run(run_id).run)


def _brief(fields: Mapping[str, Any], of_detector: bool = False) -> str:
    """An event's fields in half a line. Any: they are JSON."""
    shown = dict(fields)
    metrics = shown.pop("metrics", None) or {}
    evaluation = shown.get("evaluation") or metrics.get("evaluation")
    for name in ("evaluation", "digest", "state_digest", "ladder", "blobs", "gates"):
        shown.pop(name, None)
    empty: tuple[object, ...] = ("", None, [], 0)
    words = [f"{name}={_value(value)}" for name, value in shown.items() if value not in empty]
    if evaluation:
        precision = evaluation.get("scores", {}).get(MAP50)
        if precision is not None:
            words.append(f"{MAP50}={percent(precision)}")
        hits = hits_name(of_detector=of_detector or precision is not None)
        words.append(f"{hits}={percent(evaluation['accuracy'])} loss={number(evaluation['loss'])}")
    return plain(" ".join(words))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value) or "-"
    return value if isinstance(value, str) else json.dumps(value)
