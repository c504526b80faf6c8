"""The coordinator and the inference service that a command was pointed at."""

from __future__ import annotations

import sys

import typer

from fedfleet.cli.inference import InferenceClient
from fedfleet.cli.settings import config_of
from fedfleet.rpc.control import ControlClient, split_address
from fedfleet.rpc.exposure import is_loopback


def connect(context: typer.Context, coordinator: str | None) -> ControlClient:
    """A client for the coordinator of the option or the environment; nothing is dialled yet.

    Raises:
        SettingInvalid, InsecureAddress: see ``ControlClient``.
    """
    config = config_of(context)
    address = coordinator or config.coordinator
    client = ControlClient(address, insecure=config.insecure)
    warn_beyond_loopback(split_address(address)[0])
    return client


def inference_of(context: typer.Context, url: str | None) -> InferenceClient:
    """A client for the inference service of the option or the environment."""
    config = config_of(context)
    client = InferenceClient(url or config.inference, insecure=config.insecure)
    if client.is_plain:
        warn_beyond_loopback(client.host)
    return client


def warn_beyond_loopback(host: str) -> None:
    """Say so where a connection leaves this machine without TLS."""
    if not is_loopback(host):
        sys.stderr.write(f"fedfleet: warning: no TLS on the way to {host}\n")
