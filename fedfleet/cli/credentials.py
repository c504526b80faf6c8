"""The key and certificates by which this user is known: where they lie, renewed in time."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import typer

from fedfleet.cli.addresses import answering, enrolment_addresses
from fedfleet.cli.settings import config_of, environment
from fedfleet.errors import FedFleetError, NotFound, SettingInvalid
from fedfleet.identity.credentials import (
    Credentials,
    is_of_another_account,
    load_credentials,
    load_external,
    save_credentials,
)
from fedfleet.rpc.enrolment import renew


def credentials_for(context: typer.Context, address: str) -> Credentials | None:
    """The credentials to show to a coordinator, renewed where it is time.

    Returns:
        None where this user has none, or wants no TLS.

    Raises:
        As ``held_credentials``, and as ``renew`` where they have ended.
    """
    config = config_of(context)
    held = held_credentials(context)
    if held is None or config.external is not None or time.time() < held.renew_at_s(0.0):
        return held
    folder = folder_of(context)
    if is_of_another_account(folder):  # who could not read any more what we would write
        sys.stderr.write(
            f"fedfleet: warning: certificate not renewed: {folder} belongs to another account, "
            "which renews it\n"
        )
        return held
    enrolment = answering(enrolment_addresses(config.enroll, address))
    return _renewed(folder, held, address, enrolment)


def held_credentials(context: typer.Context) -> Credentials | None:
    """The same as they are.

    Raises:
        NotFound: there are none in the folder that is named, nor may there be none.
        CertificateInvalid, StoreUnavailable: they cannot be used.
    """
    config = config_of(context)
    if config.tls == "off":
        return None
    if config.external is not None:
        return load_external(*config.external)
    is_named = config.credentials is not None or config.tls == "on"
    if not is_named and default_folder(environment(context)) is None:
        return None
    try:
        return load_credentials(folder_of(context))
    except NotFound:
        if is_named:
            raise
        return None


def _renewed(folder: Path, old: Credentials, address: str, enrolment: str) -> Credentials:
    """New credentials in the place of old ones; the old ones while that fails and they are good."""
    try:
        fresh = asyncio.run(renew(address, enrolment, old))
        save_credentials(folder, fresh)
    except FedFleetError as error:
        if time.time() >= old.expires_at_s:
            raise
        sys.stderr.write(f"fedfleet: warning: certificate not renewed: {error.message}\n")
        return old
    return fresh


def folder_of(context: typer.Context) -> Path:
    """Where credentials are kept; raises SettingInvalid."""
    folder = config_of(context).credentials or default_folder(environment(context))
    if folder is None:
        raise SettingInvalid("FEDFLEET_CREDENTIALS is not set, nor is HOME: no place to keep them")
    return folder


def default_folder(environ: Mapping[str, str]) -> Path | None:
    """As the XDG Base Directory Specification, version 0.8, says; None where there is no home."""
    named, home = environ.get("XDG_CONFIG_HOME", ""), environ.get("HOME", "")
    if named.startswith("/"):  # one that is relative is to be ignored
        return Path(named) / "fedfleet"
    return Path(home) / ".config" / "fedfleet" if home else None
