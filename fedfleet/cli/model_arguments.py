"""What the commands about versions have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from fedfleet.cli.output import plain
from fedfleet.v1 import control_service_pb2 as pb

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]


def evaluation_of(version: pb.Version) -> dict[str, Any]:
    """The coordinator's evaluation of a version, empty where there is none. Any: it is JSON."""
    metrics = json.loads(version.metrics_json or "{}")
    return dict(metrics.get("evaluation") or {})


def alias_names(version: pb.Version, aliases: Iterable[pb.Alias]) -> str:
    """The aliases that point at a version."""
    return ", ".join(plain(a.name) for a in aliases if a.version == version.number)
