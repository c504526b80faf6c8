"""``fedfleet models``: rollback, retire, history."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from fedfleet.cli.documents import alias_document, registry_event_document
from fedfleet.cli.model_arguments import Model, evaluation_of, left_out
from fedfleet.cli.output import (
    console,
    local_time,
    make_table,
    percent,
    plain,
    size,
    write_json,
)
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json
from fedfleet.errors import NotFound
from fedfleet.v1 import control_service_pb2 as pb


def rollback(
    context: typer.Context,
    model: Model,
    alias: Annotated[str, typer.Option(help="The alias that is to go back.")] = "production",
    # Optional[...]: Typer evaluates it, on Python 3.10 too.
    expect: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="REVISION", min=1, help="Only if the alias is at this revision still."
        ),
    ] = None,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Point an alias back at the version that it named before."""
    with connect(context, coordinator) as client:
        response = client.roll_back_alias(model, alias, expect)
    moved = response.alias
    if as_json:
        document = {"model": model, **alias_document(moved)}
        write_json({**document, "left_version": response.left_version})
        return
    console().print(
        f"{plain(model)}: {plain(moved.name)} is version {moved.version} again, revision "
        f"{moved.revision}; it was version {response.left_version}"
    )


def retire(
    context: typer.Context,
    model: Model,
    keep: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many of the newest versions stay.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which versions would go.")
    ] = False,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Let go of old versions' weights; their records stay, and what an alias names."""
    with connect(context, coordinator) as client:
        response = client.retire_versions(model, keep, dry_run=dry_run)
    numbers = list(response.versions)
    if as_json:
        write_json(
            {
                "model": model,
                "dry_run": dry_run,
                "versions": numbers,
                "size_bytes": response.size_bytes,
            }
        )
        return
    verb = "would be retired" if dry_run else "retired"
    names = f" ({_ranges(numbers)})" if numbers else ""
    what = "1 version" if len(numbers) == 1 else f"{len(numbers)} versions"
    console().print(f"{plain(model)}: {what} {verb}{names}, {size(response.size_bytes)}")


def history(
    context: typer.Context,
    model: Model,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Show what happened to a model's versions and aliases, in order."""
    with connect(context, coordinator) as client:
        versions = {one.number: one for one in client.list_versions(model).versions}
        if not versions:
            raise NotFound(f"there is no model {model!r}")
        events = list(client.all_registry_events(model))
    if as_json:
        write_json({"model": model, "events": [registry_event_document(one) for one in events]})
        return
    right = ("event", "version", "round", "accuracy")
    table = make_table("", ("event", "what", *right[1:], "made"), right=right)
    for event in events:
        version = versions.get(event.version, pb.Version())
        table.add_row(
            str(event.event_id),
            _what(event, version),
            str(event.version),
            str(version.round or "-"),
            percent(evaluation_of(version).get("accuracy")),
            local_time(version.created_at_s),
        )
    out = console()
    out.print(table)
    if note := left_out(model, list(versions.values())):
        out.print(note)


def _what(event: pb.RegistryEvent, version: pb.Version) -> str:
    if event.kind == "alias":
        return f"{plain(event.alias)} names it"
    if event.kind == "version" and version.number:
        return "made" if version.run_id else "imported"
    return plain(event.kind)


def _ranges(numbers: list[int]) -> str:
    """Numbers in order, for example ``1-3, 5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
