"""``fedfleet models``: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fedfleet.cli.documents import version_document
from fedfleet.cli.model_arguments import Model
from fedfleet.cli.output import console, plain, size, write_json
from fedfleet.cli.progress import working
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.version_folder import (
    exported_from_message,
    import_header,
    read_folder,
    read_pieces,
    write_folder,
)


def export(
    context: typer.Context,
    model: Model,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number or an alias.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="A folder that is not there yet.")],
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Write a version to a folder, which plain PyTorch can load."""
    with (
        connect(context, coordinator) as client,
        working(console(), "exporting", shown=not as_json),
    ):
        header, pieces = client.export_version(model, version)
        exported = exported_from_message(header)
        write_folder(to, exported, pieces)
    if as_json:
        write_json({**version_document(header.version, ()), "folder": str(to)})
        return
    found = header.version
    console().print(
        f"version {found.number} of {plain(found.model)}: {size(found.size_bytes)} in {to}"
    )


def import_version(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What export has written.")],
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="MODEL", help="The model's name here; else the one it had."),
    ] = None,
    alias: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="ALIAS", help="Set to the version; may be given several times."),
    ] = None,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Add a version from a folder that export has written."""
    exported = read_folder(folder)
    header = import_header(exported, name or exported.fields["model"], alias or ())
    with (
        connect(context, coordinator) as client,
        working(console(), "importing", shown=not as_json),
    ):
        version = client.import_version(header, read_pieces(folder))
    aliases = [pb.Alias(name=one, version=version.number) for one in header.aliases]
    if as_json:
        document = version_document(version, ())
        write_json({**document, "aliases": [one.name for one in aliases]})
        return
    names = f", {', '.join(plain(one.name) for one in aliases)}" if aliases else ""
    console().print(f"{plain(version.model)}: version {version.number}{names}")
