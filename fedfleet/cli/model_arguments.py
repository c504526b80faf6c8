"""What the commands about versions have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST)


def left_out(model: str, versions: Sequence[pb.Version]) -> str:
    """What a list says of older versions that it does not have; empty where it has all.

    Args:
        versions: of this model. Numbers have no gaps.
    """
    oldest = min((version.number for version in versions), default=0)
    if oldest == 1:
        return ""
    some = f"versions before {oldest}" if oldest else "versions"
    return f"{plain(model)}: {some} are left out; fedfleet models show has each of them"


def alias_names(version: pb.Version, aliases: Iterable[pb.Alias]) -> str:
    """The aliases that point at a version."""
    return ", ".join(plain(a.name) for a in aliases if a.version == version.number)
