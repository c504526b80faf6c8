"""``fedfleet token``: create, list, delete."""

from __future__ import annotations

import shlex
from typing import Annotated, Optional

import typer

from fedfleet.cli.addresses import split_addresses
from fedfleet.cli.documents import role_name, token_document
from fedfleet.cli.durations import parse_duration
from fedfleet.cli.output import ago, console, local_time, make_table, plain, write_json
from fedfleet.cli.session import connect, coordinator_of
from fedfleet.cli.settings import Coordinator, Json, config_of
from fedfleet.errors import SettingInvalid
from fedfleet.rpc.address import split_address
from fedfleet.rpc.exposure import is_loopback
from fedfleet.v1 import control_service_pb2 as pb

# Optional[...]: Typer evaluates it, on Python 3.10 too.
_Name = Optional[str]  # noqa: UP045


def create(
    context: typer.Context,
    worker: Annotated[
        _Name, typer.Option(metavar="NAME", help="For the worker of this name.")
    ] = None,
    operator: Annotated[
        _Name, typer.Option(metavar="NAME", help="For a person or program that may do all.")
    ] = None,
    observer: Annotated[
        _Name, typer.Option(metavar="NAME", help="For a person or program that may look.")
    ] = None,
    valid: Annotated[
        str, typer.Option(metavar="TIME", help="How long it can be used: 90s, 30m, 2h, 7d.")
    ] = "1h",
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Make a token by which one name enrols, once."""
    role, name = _whose(worker, operator, observer)
    valid_s = parse_duration("--valid", valid)
    with connect(context, coordinator) as client:
        made = client.create_token(name, role, valid_s)
    address = coordinator_of(context, coordinator)
    command = enrol_command(role, name, made.token, address, config_of(context).enroll)
    if as_json:
        write_json(
            {
                "token_id": made.token_id,
                "role": role_name(role),
                "name": name,
                "expires_at_s": made.expires_at_s,
                "token": made.token,
                "command": command,
            }
        )
        return
    out = console()
    until = local_time(made.expires_at_s)
    out.print(f"token for {role_name(role)} {plain(name)}, once, until {until}; not shown again:")
    out.print(made.token, soft_wrap=True)  # a line that is broken cannot be copied
    out.print("on the device:" if role == pb.ROLE_WORKER else "where it is to be used:")
    out.print(command, soft_wrap=True)
    if any(is_loopback(split_address(one)[0]) for one in split_addresses(address)):
        out.print(f"On another machine: this one's address in the place of {address}.")


def list_tokens(
    context: typer.Context, coordinator: Coordinator = None, as_json: Json = False
) -> None:
    """List the tokens not used yet."""
    with connect(context, coordinator) as client:
        tokens = client.list_tokens()
    if as_json:
        write_json({"tokens": [token_document(token) for token in tokens]})
        return
    table = make_table("", ("token", "role", "name", "made", "valid until"))
    for token in tokens:
        table.add_row(
            plain(token.token_id),
            role_name(token.role),
            plain(token.name),
            ago(token.created_at_s),
            local_time(token.expires_at_s),
        )
    console().print(table if tokens else "There is no unused token.")


def delete(
    context: typer.Context,
    token: Annotated[str, typer.Argument(metavar="ID", help="As `fedfleet token list` shows it.")],
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Make an unused token worthless."""
    with connect(context, coordinator) as client:
        client.delete_token(token)
    if as_json:
        write_json({"token_id": token})
    else:
        console().print(f"token {plain(token)} is deleted")


def enrol_command(
    role: pb.Role.ValueType, name: str, token: str, coordinator: str, enroll: str
) -> str:
    """What to run where the token is to be used.

    Args:
        enroll: the setting of where certificates are issued, empty for the usual place.
    """
    settings = [f"FEDFLEET_COORDINATOR={shlex.quote(coordinator)}"]
    if enroll:
        settings.append(f"FEDFLEET_ENROLL={shlex.quote(enroll)}")
    if role == pb.ROLE_WORKER:
        settings += [f"FEDFLEET_WORKER_ID={shlex.quote(name)}", f"FEDFLEET_TOKEN={token}"]
        return " ".join([*settings, "fedfleet-worker enroll"])
    settings.append(f"FEDFLEET_TOKEN={token}")
    return " ".join([*settings, f"fedfleet enroll --name {shlex.quote(name)}"])


def _whose(
    worker: str | None, operator: str | None, observer: str | None
) -> tuple[pb.Role.ValueType, str]:
    """The role and the name; raises SettingInvalid."""
    wanted = [
        (role, name)
        for role, name in (
            (pb.ROLE_WORKER, worker),
            (pb.ROLE_OPERATOR, operator),
            (pb.ROLE_OBSERVER, observer),
        )
        if name is not None
    ]
    if len(wanted) != 1:
        raise SettingInvalid("--worker, --operator, --observer: exactly one says whose token it is")
    return wanted[0]
