"""Refuses to listen beyond this machine without TLS, unless that was asked for by name."""

from __future__ import annotations

import ipaddress
import logging

from fedfleet.errors import InsecureAddress

logger = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; a name other than localhost counts as not.

    Names are not looked up: what they mean can change between the check and the bind.
    """
    bare = host.strip("[]")
    if bare == "localhost":
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return (mapped or address).is_loopback


def check_exposure(host: str, insecure: bool, what: str) -> None:
    """Return if ``what`` may listen on (or dial) a host without TLS, warning where that is unsafe.

    Args:
        insecure: FEDFLEET_INSECURE was set.
        what: names the endpoint in the error and the log, for example ``the coordinator``.

    Raises:
        InsecureAddress: beyond loopback and not allowed by name.
    """
    if is_loopback(host):
        logger.info("endpoint_without_tls", extra={"endpoint": what, "host": host})
        return
    if not insecure:
        raise InsecureAddress(
            f"{what} would use {host or 'every address'} without TLS: use 127.0.0.1, or set "
            "FEDFLEET_INSECURE=1 if everybody who can reach that address is trusted"
        )
    logger.warning(
        "insecure_endpoint",
        extra={"endpoint": what, "host": host, "reason": "no TLS beyond loopback"},
    )
