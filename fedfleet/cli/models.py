"""``fedfleet models``: list, show, promote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Optional

import typer

from fedfleet.cli.documents import Document, alias_document, version_document
from fedfleet.cli.model_arguments import Model, alias_names, not_listed
from fedfleet.cli.output import (
    ago,
    console,
    local_time,
    make_table,
    number,
    percent,
    plain,
    size,
    write_json,
)
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json
from fedfleet.cli.version_quality import (
    QUALITY,
    Pooled,
    VersionQuality,
    column_of,
    pooled_evaluations,
    quality_of,
)
from fedfleet.v1 import control_service_pb2 as pb


def list_versions(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Of this model only.")] = "",
    limit: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="The newest so many of each model; 0: all."),
    ] = 20,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """List the newest versions, and aliases."""
    with connect(context, coordinator) as client:
        response = client.list_versions(model, limit)
        pooled = pooled_evaluations(client, response.versions)
    if as_json:
        write_json(
            {
                "versions": [
                    _document(version, response.aliases[version.model].aliases, pooled)
                    for version in response.versions
                ],
                "older": {name: before - 1 for name, before in sorted(response.older.items())},
            }
        )
        return
    found = [quality_of(version, pooled) for version in response.versions]
    quality = column_of(found)
    right = ("version", "round", quality, "loss", "size")
    columns = ("model", *right, "run", "made", "aliases")
    table = make_table("", columns, right=right)
    for version, measured in zip(response.versions, found, strict=True):
        table.add_row(
            plain(version.model),
            str(version.number),
            str(version.round),
            measured.told(quality),
            number(measured.loss),
            "retired" if version.retired_at_s else size(version.size_bytes),
            plain(version.run_id) or "imported",
            ago(version.created_at_s),
            alias_names(version, response.aliases[version.model].aliases),
        )
    out = console()
    out.print(table if response.versions else "There is no version yet.")
    for name, before in sorted(response.older.items()):
        out.print(not_listed(name, before))


def show(
    context: typer.Context,
    model: Model,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="A number or an alias; else the newest.")
    ] = "",
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Show one version."""
    with connect(context, coordinator) as client:
        # An imported model has no alias `latest`.
        newest = [] if version else client.list_versions(model, 1).versions
        response = client.get_version(model, str(newest[0].number) if newest else version)
        found = response.version
        pooled = pooled_evaluations(client, [found])
    if as_json:
        write_json(_document(found, response.aliases, pooled))
        return
    card = json.loads(found.card_json or "{}")
    measured = quality_of(found, pooled)
    table = make_table("", ("", ""))
    table.show_header = False
    for name, value in (
        ("model", found.model),
        ("version", str(found.number)),
        ("aliases", alias_names(found, response.aliases) or "-"),
        ("architecture", f"{card.get('architecture')} {json.dumps(card.get('options', {}))}"),
        ("classes", ", ".join(card.get("classes", ()))),
        (measured.name or QUALITY, percent(measured.value)),
        *([(measured.hits_name, percent(measured.hits))] if _has_two(measured) else ()),
        ("loss", number(measured.loss)),
        *_origin(found),
        ("made", local_time(found.created_at_s)),
        ("size", size(found.size_bytes)),
        *([("retired", local_time(found.retired_at_s))] if found.retired_at_s else ()),
        ("SHA-256", found.digest),
        ("signature", found.signature or "none"),
    ):
        table.add_row(name, plain(value))
    console().print(table)


def promote(
    context: typer.Context,
    model: Model,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number or an alias.")],
    alias: Annotated[str, typer.Option(help="The alias that is to point at it.")] = "production",
    # Optional[...]: Typer evaluates it, on Python 3.10 too.
    expect: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="REVISION",
            min=0,
            help="Only if the alias is at this revision still; 0: only if there is none yet.",
        ),
    ] = None,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Point an alias at a version."""
    with connect(context, coordinator) as client:
        number_ = client.get_version(model, version).version.number
        moved = client.set_alias(model, alias, number_, expect)
    if as_json:
        write_json({"model": model, **alias_document(moved)})
        return
    console().print(
        f"{plain(model)}: {plain(moved.name)} is version {moved.version}, revision {moved.revision}"
    )


def _has_two(measured: VersionQuality) -> bool:
    """Whether the share of right answers is another number than the quality."""
    return measured.hits_name != measured.name


def _document(version: pb.Version, aliases: Iterable[pb.Alias], pooled: Pooled) -> Document:
    """A version as ``--json`` shows it, with what only its run knows."""
    by_workers = pooled.get((version.model, version.number))
    document = version_document(version, aliases)
    document["evaluation_on_workers"] = None if by_workers is None else by_workers.to_json()
    return document


def _origin(version: pb.Version) -> list[tuple[str, str]]:
    """How a version came about."""
    lineage: dict[str, Any] = json.loads(version.lineage_json or "{}")
    imported = lineage.pop("imported", None)
    software = lineage.get("software")
    is_table = isinstance(software, dict)  # what was imported may say anything
    rows = [
        (name, _text(value))
        for name, value in sorted(lineage.items())
        if not (is_table and name == "software")
    ]
    if isinstance(software, dict) and software:
        made_by = ", ".join(f"{name} {release}" for name, release in software.items())
        rows.append(("software", made_by))
    if imported is not None:
        return [("imported", _text(imported)), *rows]
    made_from = str(version.parent) if version.parent else "the initial state"
    return [
        ("run, round", f"{version.run_id}, {version.round}"),
        ("made from", made_from),
        *rows,
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
