"""``fedfleet models``: list, show, promote."""

from __future__ import annotations

import json
from typing import Annotated, Any, Optional

import typer

from fedfleet.cli.documents import alias_document, version_document
from fedfleet.cli.model_arguments import Model, alias_names, evaluation_of, left_out
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
from fedfleet.v1 import control_service_pb2 as pb


def list_versions(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Of this model only.")] = "",
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """List versions and aliases."""
    with connect(context, coordinator) as client:
        response = client.list_versions(model)
    if as_json:
        write_json(
            {
                "versions": [
                    version_document(version, response.aliases[version.model].aliases)
                    for version in response.versions
                ]
            }
        )
        return
    right = ("version", "round", "accuracy", "loss", "size")
    columns = ("model", *right, "run", "made", "aliases")
    table = make_table("", columns, right=right)
    for version in response.versions:
        evaluation = evaluation_of(version)
        table.add_row(
            plain(version.model),
            str(version.number),
            str(version.round),
            percent(evaluation.get("accuracy")),
            number(evaluation.get("loss")),
            "retired" if version.retired_at_s else size(version.size_bytes),
            plain(version.run_id) or "imported",
            ago(version.created_at_s),
            alias_names(version, response.aliases[version.model].aliases),
        )
    out = console()
    out.print(table if response.versions else "There is no version yet.")
    for name in response.aliases if response.versions else ():
        if note := left_out(name, [one for one in response.versions if one.model == name]):
            out.print(note)


def show(
    context: typer.Context,
    model: Model,
    version: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="A number or an alias.")
    ] = "latest",
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Show one version."""
    with connect(context, coordinator) as client:
        response = client.get_version(model, version)
    found = response.version
    if as_json:
        write_json(version_document(found, response.aliases))
        return
    card = json.loads(found.card_json or "{}")
    evaluation = evaluation_of(found)
    table = make_table("", ("", ""))
    table.show_header = False
    for name, value in (
        ("model", found.model),
        ("version", str(found.number)),
        ("aliases", alias_names(found, response.aliases) or "-"),
        ("architecture", f"{card.get('architecture')} {json.dumps(card.get('options', {}))}"),
        ("classes", ", ".join(card.get("classes", ()))),
        ("accuracy", percent(evaluation.get("accuracy"))),
        ("loss", number(evaluation.get("loss"))),
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
