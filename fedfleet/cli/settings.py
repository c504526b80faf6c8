"""What the commands have in common: settings from the environment, and options that override them.

Layering keeps ``os.environ`` in ``main``, which passes the environment on as the context's object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from fedfleet.env import parse_bool, parse_path, read, setting
from fedfleet.errors import DataEmpty, DataMissing, SettingInvalid
from fedfleet.rpc.exposure import parse_tls
from fedfleet.tables import printable


@dataclass(frozen=True, kw_only=True, slots=True)
class CliConfig:
    """Settings; each field is the variable FEDFLEET_<NAME>.

    Raises:
        SettingInvalid: two settings do not go together.
    """

    coordinator: str = setting(
        "the coordinator's HOST:PORT; behind commas, those that stand by for it",
        default="127.0.0.1:7070",
        parse=str,
    )
    inference: str = setting(
        "URL of the inference service", default="http://127.0.0.1:8080", parse=str
    )
    credentials: Path | None = setting(
        "folder with this operator's key and certificates; else fedfleet in XDG_CONFIG_HOME or "
        "~/.config, if it is there",
        default=None,
        parse=parse_path,
    )
    tls: str = setting(
        "mutual TLS with the coordinator: on, off, or auto, which is on beyond loopback and "
        "wherever there are credentials",
        default="auto",
        parse=parse_tls,
    )
    operator_certificate: Path | None = setting(
        "file with this operator's certificates where another authority issues them",
        default=None,
        parse=parse_path,
    )
    operator_key: Path | None = setting(
        "file with that certificate's key", default=None, parse=parse_path
    )
    server_root: Path | None = setting(
        "file with the certificates of the authority that has issued the coordinator's",
        default=None,
        parse=parse_path,
    )
    enroll: str = setting(
        "HOST:PORT where certificates are issued, several behind commas; empty is the "
        "coordinator's hosts, port 7073",
        default="",
        parse=str,
    )
    ca_dir: Path | None = setting(
        "folder of the certificate authority, for the ca commands; else state/ca",
        default=None,
        parse=parse_path,
    )
    token: str = setting("the single-use token to enrol with", default="", parse=str)
    api_key: str = setting(
        "key that the inference service asks for beyond loopback", default="", parse=str
    )
    insecure: bool = setting(
        "1 allows connections without TLS beyond loopback", default=False, parse=parse_bool
    )
    data_dir: Path | None = setting("folder with the data sets", default=None, parse=parse_path)

    def __post_init__(self) -> None:
        files = (self.operator_certificate, self.operator_key, self.server_root)
        if any(files) and not all(files):
            raise SettingInvalid(
                "FEDFLEET_OPERATOR_CERTIFICATE, FEDFLEET_OPERATOR_KEY, FEDFLEET_SERVER_ROOT: set "
                "all three, or none to have the coordinator issue certificates"
            )

    @property
    def external(self) -> tuple[Path, Path, Path] | None:
        """Files of another authority: certificate, key, root."""
        certificate, key, root = self.operator_certificate, self.operator_key, self.server_root
        return (certificate, key, root) if certificate and key and root else None


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


@contextmanager
def naming_folder(data_dir: Path | None) -> Iterator[None]:
    """Say where the data were looked for. Only here: the error of a worker is sent elsewhere."""
    try:
        yield
    except (DataMissing, DataEmpty) as error:
        if data_dir is None:
            raise
        where = printable(str(data_dir.absolute()))
        raise type(error)(f"{error.message} (the data folder is {where})") from error
