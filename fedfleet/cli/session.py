"""The coordinator and the inference service that a command was pointed at."""

from __future__ import annotations

import sys

import typer

from fedfleet.cli.addresses import answering, is_answering, split_addresses, wait_answering
from fedfleet.cli.credentials import credentials_for, held_credentials
from fedfleet.cli.inference import InferenceClient
from fedfleet.cli.settings import config_of
from fedfleet.errors import InsecureAddress
from fedfleet.rpc.address import split_address
from fedfleet.rpc.control import ControlClient
from fedfleet.rpc.exposure import is_loopback

# A coordinator that was started the moment before listens by then, on a slow device too.
START_S = 30.0


def connect(
    context: typer.Context, coordinator: str | None, *, patience_s: float = 0.0
) -> ControlClient:
    """A client for the coordinator of the option or the environment; nothing is dialled yet.

    Args:
        patience_s: wait so long for a coordinator that is starting, and say so on standard error.

    Raises:
        SettingInvalid: not an address.
        InsecureAddress: beyond loopback, without credentials.
        NotFound, CertificateInvalid: the credentials that are named cannot be used.
    """
    config = config_of(context)
    addresses = split_addresses(coordinator_of(context, coordinator))
    if patience_s and not is_answering(addresses):
        sys.stderr.write(
            f"fedfleet: nobody listens at {', '.join(addresses)} yet; waiting {patience_s:g} s for "
            "a coordinator that is starting\n"
        )
        wait_answering(addresses, patience_s)
    address = answering(addresses)
    host, _ = split_address(address)
    credentials = credentials_for(context, address)
    if credentials is None and not is_loopback(host):
        if not config.insecure:
            raise InsecureAddress(
                f"no credentials for {host}: let an operator run `fedfleet token create --operator "
                "NAME`, then run `fedfleet enroll` here with that token; or name the folder that "
                "holds credentials, FEDFLEET_CREDENTIALS"
            )
        warn_without_tls(host)
    return ControlClient(address, insecure=config.insecure, credentials=credentials)


def coordinator_of(context: typer.Context, coordinator: str | None) -> str:
    """The coordinator's HOST:PORT (or several), of the option or the environment."""
    return coordinator or config_of(context).coordinator


def inference_of(context: typer.Context, url: str | None) -> InferenceClient:
    """A client for the inference service of the option or the environment."""
    config = config_of(context)
    address = url or config.inference
    held = held_credentials(context) if address.startswith("https:") else None
    client = InferenceClient(
        address,
        insecure=config.insecure,
        api_key=config.api_key,
        root=held.root if held is not None else b"",
    )
    if client.is_plain and not is_loopback(client.host):
        warn_without_tls(client.host)
    return client


def warn_without_tls(host: str) -> None:
    """Say that a connection leaves this machine without TLS."""
    sys.stderr.write(f"fedfleet: warning: no TLS on the way to {host}\n")
