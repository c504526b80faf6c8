"""``fedfleet models``: rollback, retire, history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Optional

import typer

from fedfleet.cli.documents import alias_document, registry_event_document
from fedfleet.cli.model_arguments import Model
from fedfleet.cli.output import (
    console,
    local_time,
    make_table,
    plain,
    size,
    write_json,
)
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json
from fedfleet.cli.version_quality import (
    VersionQuality,
    column_of,
    pooled_evaluations,
    quality_of,
)
from fedfleet.store.alias_history import step
from fedfleet.store.protocols import no_model
from fedfleet.store.version_numbers import ranges_of
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
        passed = _passed_over(client.all_registry_events(model), moved)
    if as_json:
        document = {"model": model, **alias_document(moved)}
        write_json({**document, "left_version": response.left_version, "passed_over": passed})
        return
    console().print(
        f"{plain(model)}: {plain(moved.name)} is version {moved.version} again, revision "
        f"{moved.revision}; it was version {response.left_version}"
    )
    if passed:
        what = "version {} was" if len(passed) == 1 else "versions {} were"
        console().print(f"{what.format(ranges_of(passed))} passed over: retired by then")


def _passed_over(events: Iterable[pb.RegistryEvent], moved: pb.Alias) -> list[int]:
    """The versions between the one that was left and the one that it went back to.

    Args:
        events: of the model, in order. Each move of an alias has one, and raises its revision.
    """
    named = [one.version for one in events if (one.kind, one.alias) == ("alias", moved.name)]
    path: list[int] = []
    for number in named[: moved.revision - 1]:
        step(path, number)
    before = path[:-1]
    return before[before.index(moved.version) + 1 :] if moved.version in before else []


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
    names = f" ({ranges_of(numbers)})" if numbers else ""
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
            names = sorted({one.model for one in client.list_versions("", 1).versions})
            raise no_model(model, names)
        events = list(client.all_registry_events(model))
        pooled = pooled_evaluations(client, versions.values())
    if as_json:
        write_json({"model": model, "events": [registry_event_document(one) for one in events]})
        return
    found = {number: quality_of(version, pooled) for number, version in versions.items()}
    quality = column_of(found.values())
    right = ("event", "version", "round", quality)
    table = make_table("", ("event", "what", *right[1:], "when"), right=right)
    for event in events:
        version = versions.get(event.version, pb.Version())
        table.add_row(
            str(event.event_id),
            _what(event, version),
            str(event.version),
            str(version.round or "-"),
            found.get(event.version, VersionQuality()).told(quality),
            local_time(event.at_s),
        )
    console().print(table)


def _what(event: pb.RegistryEvent, version: pb.Version) -> str:
    if event.kind == "alias":
        return f"{plain(event.alias)} names it"
    if event.kind == "version" and version.number:
        return "made" if version.run_id else "imported"
    return plain(event.kind)
