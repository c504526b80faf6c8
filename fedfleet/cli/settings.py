"""What the commands have in common: settings from the environment, and options that override them.

Layering keeps ``os.environ`` in ``main``, which passes the environment on as the context's object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from fedfleet.env import parse_bool, parse_path, read, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class CliConfig:
    """Settings; each field is the variable FEDFLEET_<NAME>."""

    coordinator: str = setting("the coordinator's HOST:PORT", default="127.0.0.1:7070", parse=str)
    inference: str = setting(
        "URL of the inference service", default="http://127.0.0.1:8080", parse=str
    )
    insecure: bool = setting(
        "1 allows connections without TLS beyond loopback", default=False, parse=parse_bool
    )
    data_dir: Path | None = setting("folder with the data sets", default=None, parse=parse_path)


# Optional[...] and not "| None": Typer evaluates these, on Python 3.10 too.
Coordinator = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="HOST:PORT",
        help="The coordinator. Else FEDFLEET_COORDINATOR, else 127.0.0.1:7070.",
    ),
]
Inference = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="URL",
        help="The inference service. Else FEDFLEET_INFERENCE, else http://127.0.0.1:8080.",
    ),
]
DataDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="FOLDER", help="The folder that holds the data sets. Else FEDFLEET_DATA_DIR."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of one that ships here."),
]


def environment(context: typer.Context) -> Mapping[str, str]:
    """The environment that ``main`` was given."""
    environ: Mapping[str, str] = context.find_root().obj
    return environ


def config_of(context: typer.Context) -> CliConfig:
    """The settings of this call; raises SettingInvalid."""
    return read(CliConfig, environment(context))
