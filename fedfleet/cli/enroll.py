"""``fedfleet enroll``: how an operator or an observer comes by credentials."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Optional

import typer

from fedfleet.cli.addresses import answering, enrolment_addresses
from fedfleet.cli.credentials import folder_of
from fedfleet.cli.output import console, local_time, plain, write_json
from fedfleet.cli.session import coordinator_of
from fedfleet.cli.settings import Coordinator, Json, config_of
from fedfleet.errors import AlreadyExists, CertificateInvalid, NotFound, SettingInvalid
from fedfleet.identity.credentials import load_credentials, save_credentials
from fedfleet.identity.names import Role
from fedfleet.rpc.enrolment import enrol


def enroll(
    context: typer.Context,
    name: Annotated[str, typer.Option(metavar="NAME", help="The name the token was made for.")],
    token: Annotated[
        Optional[str],  # noqa: UP045  # Typer evaluates it, on Python 3.10 too
        typer.Option(
            metavar="TOKEN",
            help="The token. Else FEDFLEET_TOKEN, which other users of this machine cannot see.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the credentials that are there.")
    ] = False,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """Trade a token for credentials, which other commands then use."""
    config = config_of(context)
    secret = token or config.token
    if not secret:
        raise SettingInvalid(
            "--token: none is given, nor is FEDFLEET_TOKEN set; an operator makes one with "
            "`fedfleet token create`"
        )
    folder = folder_of(context)
    _make_room(folder, replace)
    address = answering(enrolment_addresses(config.enroll, coordinator_of(context, coordinator)))
    credentials = asyncio.run(enrol(address, secret, name))
    identity = credentials.identity
    if identity.role is Role.WORKER:
        raise CertificateInvalid(
            f"the token was one for worker {identity.name}, and is used up: make another, and run "
            "`fedfleet-worker enroll` with it on the device"
        )
    save_credentials(folder, credentials)
    if as_json:
        write_json(
            {
                "role": identity.role.value,
                "name": identity.name,
                "expires_at_s": credentials.expires_at_s,
                "folder": str(folder),
            }
        )
        return
    out = console()
    until = local_time(credentials.expires_at_s)
    out.print(f"{plain(identity.text)}: credentials in {folder}, good until {until}, then renewed")
    if config.credentials is not None:
        setting = f"FEDFLEET_CREDENTIALS={shlex.quote(str(folder.absolute()))}"
        out.print(f"for other commands: export {setting}", soft_wrap=True)


def _make_room(folder: Path, replace: bool) -> None:
    """See to it that credentials can be kept, before a token is spent on them.

    Raises:
        AlreadyExists: there are some.
        SettingInvalid: the folder cannot be made or written to.
    """
    try:
        held = load_credentials(folder).identity.text
    except NotFound:
        held = ""
    except CertificateInvalid:
        held = "damaged"
    if held and not replace:
        raise AlreadyExists(
            f"{folder} holds credentials ({held}): name another folder by FEDFLEET_CREDENTIALS, "
            "or give --replace"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingInvalid(f"{folder}: {error.strerror}") from error
