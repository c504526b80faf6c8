"""``fedfleet worker revoke`` and ``fedfleet operator revoke``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fedfleet.cli.documents import role_name
from fedfleet.cli.output import console, plain, write_json
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json
from fedfleet.identity.authority import LOCAL_NAME
from fedfleet.v1 import control_service_pb2 as pb

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def worker(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker's name.")],
    yes: Yes = False,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Shut a worker out: its certificates and tokens are worthless at once."""
    _ask(pb.ROLE_WORKER, name, yes)
    with connect(context, coordinator) as client:
        count = client.revoke_worker(name)
    _tell(pb.ROLE_WORKER, name, count, as_json)


def operator(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The operator's name.")],
    observer: Annotated[bool, typer.Option("--observer", help="It is an observer's name.")] = False,
    yes: Yes = False,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Shut an operator or an observer out."""
    role = pb.ROLE_OBSERVER if observer else pb.ROLE_OPERATOR
    _ask(role, name, yes)
    with connect(context, coordinator) as client:
        count = client.revoke_operator(name, role)
    _tell(role, name, count, as_json)


def _ask(role: pb.Role.ValueType, name: str, is_sure: bool) -> None:
    """Go on if somebody says yes; asked on standard error, so that --json stays one document."""
    if is_sure:
        return
    back = "It has to enrol again to come back."
    if (role, name) == (pb.ROLE_OPERATOR, LOCAL_NAME):
        back = "The coordinator makes new credentials within an hour, or when it starts."
    question = f"Shut {role_name(role)} {plain(name)} out? {back}"
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        sys.stderr.write("\n")
        raise typer.Abort


def _tell(role: pb.Role.ValueType, name: str, count: int, as_json: bool) -> None:
    if as_json:
        write_json({"role": role_name(role), "name": name, "certificates": count})
        return
    certificates = "1 certificate is" if count == 1 else f"{count} certificates are"
    console().print(f"{role_name(role)} {plain(name)}: {certificates} worthless now")
