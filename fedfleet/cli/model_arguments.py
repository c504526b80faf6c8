"""What the commands about versions have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from fedfleet.cli.output import plain
from fedfleet.v1 import control_service_pb2 as pb

_LARGEST = 1 << 53  # of whole numbers: a float can hold them

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]


def evaluation_of(version: pb.Version) -> dict[str, Any]:
    """The numbers of the coordinator's evaluation of a version; empty where there is none.

    What was imported may hold anything: what is no number is left out. Any: it is JSON.
    """
    metrics = json.loads(version.metrics_json or "{}")
    found = metrics.get("evaluation") if isinstance(metrics, dict) else None
    evaluation = found if isinstance(found, dict) else {}
    scores = evaluation.get("scores")
    kept: dict[str, Any] = {
        name: evaluation[name] for name in ("accuracy", "loss") if _is_number(evaluation.get(name))
    }
    if isinstance(scores, dict):
        kept["scores"] = {name: value for name, value in scores.items() if _is_number(value)}
    for name in ("class_samples", "class_correct", "class_predicted"):
        column = evaluation.get(name)
        if isinstance(column, list) and all(_is_number(value) for value in column):
            kept[name] = column
    return kept


def of_detector(version: pb.Version) -> bool:
    """Whether a version answers with boxes."""
    card = json.loads(version.card_json or "{}")
    return isinstance(card, dict) and card.get("kind") == "detection"


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST)


def not_listed(model: str, before: int) -> str:
    """What a list says of older versions that it does not have.

    Args:
        before: they have the numbers below this one, of which there is at least one.
    """
    count = before - 1
    some = "1 older version is" if count == 1 else f"{count} older versions are"
    return f"{plain(model)}: {some} not listed; --limit 0 lists all"


def alias_names(version: pb.Version, aliases: Iterable[pb.Alias]) -> str:
    """The aliases that point at a version."""
    return ", ".join(plain(a.name) for a in aliases if a.version == version.number)
