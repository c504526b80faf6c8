"""Where the coordinator is, or those that stand by for it, one of which answers."""

from __future__ import annotations

import socket
import time

from fedfleet.env import parse_list
from fedfleet.errors import SettingInvalid
from fedfleet.rpc.address import split_address

ENROLL_PORT = 7073
# A coordinator that waits as a standby does not listen: its machine refuses at once.
LOOK_S = 3.0
_AGAIN_S = 0.2


def split_addresses(text: str) -> tuple[str, ...]:
    """Each ``HOST:PORT`` of several behind commas.

    Raises:
        SettingInvalid: one is none, or there is none.
    """
    found = parse_list(text)
    if not found:
        raise SettingInvalid(f"coordinator {text!r}: must be HOST:PORT, or several behind commas")
    for address in found:
        split_address(address)
    return found


def enrolment_addresses(enroll: str, coordinator: str) -> tuple[str, ...]:
    """Where certificates are issued.

    Args:
        enroll: the setting; empty is the usual port of the coordinator's hosts.
    """
    if enroll:
        return split_addresses(enroll)
    hosts = (address.rpartition(":")[0] for address in split_addresses(coordinator))
    return tuple(f"{host}:{ENROLL_PORT}" for host in dict.fromkeys(hosts))


def answering(addresses: tuple[str, ...]) -> str:
    """The first at which somebody listens, or else the first."""
    for address in addresses if len(addresses) > 1 else ():
        if is_answering((address,)):
            return address
    return addresses[0]


def is_answering(addresses: tuple[str, ...]) -> bool:
    """Whether somebody listens at one of them."""
    for address in addresses:
        try:
            with socket.create_connection(split_address(address), LOOK_S):
                return True
        except OSError:
            continue
    return False


def wait_answering(addresses: tuple[str, ...], limit_s: float) -> None:
    """Return once somebody listens at one of them, or the time is over."""
    give_up_s = time.monotonic() + limit_s
    while not is_answering(addresses) and time.monotonic() < give_up_s:
        time.sleep(_AGAIN_S)
