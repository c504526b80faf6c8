"""``fedfleet key``: create, list, revoke."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from fedfleet.cli.documents import key_document
from fedfleet.cli.durations import parse_duration
from fedfleet.cli.output import ago, console, local_time, make_table, plain, write_json
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json


def create(
    context: typer.Context,
    name: Annotated[str, typer.Option(metavar="NAME", help="Who or what will use it.")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            help="What it opens: predict, models:read, models:promote, cameras:read, "
            "cameras:admin. Once for each.",
        ),
    ],
    valid: Annotated[
        Optional[str],  # noqa: UP045  # Typer evaluates it, on Python 3.10 too
        typer.Option(metavar="TIME", help="How long it is good, as in 90d. Else until revoked."),
    ] = None,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Make a key for the inference service."""
    valid_s = parse_duration("--valid", valid) if valid is not None else 0.0
    with connect(context, coordinator) as client:
        made = client.create_key(name, scope, valid_s)
    if as_json:
        write_json({"key_id": made.key_id, "name": name, "scopes": scope, "key": made.key})
        return
    out = console()
    out.print(f"key {made.key_id} for {plain(name)}, {', '.join(scope)}; not shown again:")
    out.print(made.key, soft_wrap=True)  # a line that is broken cannot be copied
    out.print("to be sent as X-API-Key; `fedfleet predict` takes it from FEDFLEET_API_KEY")


def list_keys(
    context: typer.Context, coordinator: Coordinator = None, as_json: Json = False
) -> None:
    """List the keys of the inference service."""
    with connect(context, coordinator) as client:
        keys = client.list_keys()
    if as_json:
        write_json({"keys": [key_document(key) for key in keys]})
        return
    table = make_table("", ("key", "name", "scopes", "made", "valid until"))
    for key in keys:
        table.add_row(
            plain(key.key_id),
            plain(key.name),
            plain(", ".join(key.scopes)),
            ago(key.created_at_s),
            local_time(key.expires_at_s) if key.expires_at_s else "-",
        )
    console().print(table if keys else "There is no key yet.")


def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="ID", help="As `fedfleet key list` shows it.")],
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Make a key worthless."""
    with connect(context, coordinator) as client:
        client.revoke_key(key)
    if as_json:
        write_json({"key_id": key})
    else:
        console().print(f"key {plain(key)} is revoked")
