"""``fedfleet models diff``: what sets two versions of a model apart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from fedfleet.cli.documents import Document
from fedfleet.cli.model_arguments import Model, evaluation_of, of_detector
from fedfleet.cli.output import console, make_table, number, percent, plain, size, write_json
from fedfleet.cli.progress import working
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json
from fedfleet.cli.version_changes import (
    FieldChange,
    ScoreChange,
    TensorChange,
    class_changes,
    field_changes,
    score_changes,
    tensor_changes,
)
from fedfleet.reports.measures import ACCURACY, RECALL, hits_name
from fedfleet.rpc.control import ControlClient
from fedfleet.types import Array
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.offers import check_whole
from fedfleet.wire.version_folder import exported_from_message
from fedfleet.wire.weights import decode_arrays

# Classes and tensors that a table shows; --json has all of them.
SHOWN = 20


def diff(
    context: typer.Context,
    model: Model,
    a: Annotated[str, typer.Argument(metavar="A", help="A number or an alias.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
    weights: Annotated[
        bool, typer.Option("--weights", help="Download both, and compare their tensors.")
    ] = False,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Compare two versions of a model."""
    with connect(context, coordinator) as client:
        versions = (client.get_version(model, a).version, client.get_version(model, b).version)
        tensors = None
        if weights:
            with working(console(), "downloading", shown=not as_json):
                tensors = tensor_changes(*(_arrays(client, version) for version in versions))
    before, after = versions
    found = _Differences(
        fields=field_changes(_described(before), _described(after)),
        scores=score_changes(_scores(before), _scores(after)),
        classes=class_changes(
            _classes(before), evaluation_of(before), _classes(after), evaluation_of(after)
        ),
        tensors=tensors,
    )
    if as_json:
        write_json({"model": model, "a": before.number, "b": after.number, **found.to_json()})
        return
    out = console()
    out.print(f"{plain(model)}: version {before.number} and version {after.number}")
    _print_scores(out, found.scores, before, after)
    _print_fields(out, found.fields)
    _print_classes(out, found.classes, hits_name(of_detector=of_detector(after)))
    if found.tensors is not None:
        _print_tensors(out, found.tensors)


@dataclass(frozen=True)
class _Differences:
    """What sets two versions apart.

    Args:
        tensors: None where the weights were not compared.
    """

    fields: list[FieldChange]
    scores: list[ScoreChange]
    classes: list[ScoreChange]
    tensors: list[TensorChange] | None

    def to_json(self) -> Document:
        """Plain values."""
        return {
            "fields": [change.to_json() for change in self.fields],
            "scores": [change.to_json() for change in self.scores],
            "classes": [change.to_json() for change in self.classes],
            "weights": None if self.tensors is None else [one.to_json() for one in self.tensors],
        }


def _arrays(client: ControlClient, version: pb.Version) -> dict[str, Array]:
    header, pieces = client.export_version(version.model, str(version.number))
    exported = exported_from_message(header)
    data = b"".join(pieces)
    check_whole(exported.digest, hashlib.sha256(data).hexdigest())
    return decode_arrays(data)


def _described(version: pb.Version) -> Document:
    """What a version's record says of how it was made and is served. Any: it is JSON."""
    card = json.loads(version.card_json or "{}")
    lineage = json.loads(version.lineage_json or "{}")
    return {
        "card": card,
        "lineage": lineage,
        "run_id": version.run_id,
        "round": version.round,
        "parent": version.parent or None,
        "schema_digest": version.schema_digest,
        "digest": version.digest,
        "size_bytes": version.size_bytes,
        "retired_at_s": version.retired_at_s or None,
    }


def _classes(version: pb.Version) -> list[str]:
    return list(json.loads(version.card_json or "{}").get("classes", ()))


def _scores(version: pb.Version) -> dict[str, float]:
    """What can be compared of a version's evaluation."""
    evaluation = evaluation_of(version)
    scores = dict(evaluation.get("scores") or {})
    hits = hits_name(of_detector=of_detector(version))
    return {hits: evaluation.get("accuracy"), "loss": evaluation.get("loss"), **scores}


def _numbers(name: str, a: float | None, b: float | None) -> tuple[str, str, str]:
    if name not in (ACCURACY, RECALL):
        change = "-" if a is None or b is None else f"{b - a:+.4g}"
        return number(a), number(b), change
    change = "-" if a is None or b is None else f"{100 * (b - a):+.1f}"
    return percent(a), percent(b), change


def _print_scores(
    out: Console, changes: list[ScoreChange], before: pb.Version, after: pb.Version
) -> None:
    table = make_table("", ("", "a", "b", "change"), right=("a", "b", "change"))
    for change in changes:
        table.add_row(plain(change.name), *_numbers(change.name, change.a, change.b))
    sizes = ("-" if one.retired_at_s else size(one.size_bytes) for one in (before, after))
    table.add_row("bytes", *sizes, f"{after.size_bytes - before.size_bytes:+d}")
    out.print(table)


def _print_classes(out: Console, changes: list[ScoreChange], hits: str) -> None:
    if not changes:
        return
    right = ("a", "b", "points", "examples")
    table = make_table(
        f"{hits.capitalize()} by class, the largest changes first", ("class", *right), right=right
    )
    for change in changes[:SHOWN]:
        row = _numbers(hits, change.a, change.b)
        table.add_row(plain(change.name), *row, str(change.samples or "-"))
    out.print(table)
    _print_left_out(out, len(changes), "classes")


def _print_fields(out: Console, changes: list[FieldChange]) -> None:
    if not changes:
        return
    table = make_table("What the records say", ("", "a", "b"))
    for change in changes:
        table.add_row(plain(change.name), _brief(change.a), _brief(change.b))
    out.print(table)


def _brief(value: Any) -> str:
    """A JSON value on one line. Any: it is JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    return plain(text if len(text) <= 60 else text[:57] + "...")


def _print_tensors(out: Console, changes: list[TensorChange]) -> None:
    right = ("elements", "L2", "of a", "cosine", "largest")
    table = make_table(
        "Weights, the largest relative changes first", ("tensor", *right), right=right
    )
    for change in changes[:SHOWN]:
        table.add_row(
            plain(change.name),
            str(change.elements),
            number(change.l2),
            percent(change.relative),
            number(change.cosine),
            number(change.largest),
        )
    out.print(table)
    _print_left_out(out, len(changes), "tensors")


def _print_left_out(out: Console, count: int, what: str) -> None:
    if count > SHOWN:
        out.print(f"and {count - SHOWN} more {what}: --json shows all")
