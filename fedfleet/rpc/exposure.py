"""Where TLS is used; refuses to go beyond this machine without it, unless asked to by name."""

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


def parse_tls(text: str) -> str:
    """Parse auto, on or off; raises ValueError."""
    lowered = text.strip().lower()
    if lowered not in ("auto", "on", "off"):
        raise ValueError("must be auto, on or off")
    return lowered


def uses_tls(tls: str, host: str) -> bool:
    """Whether an endpoint has TLS; ``auto`` is beyond loopback, whatever else is allowed there.

    Args:
        tls: auto, on or off.
    """
    return tls == "on" or (tls == "auto" and not is_loopback(host))


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
            f"{what} would use {host or 'every address'} without TLS: use TLS or 127.0.0.1, or set "
            "FEDFLEET_INSECURE=1 if everybody who can reach that address is trusted"
        )
    logger.warning(
        "insecure_endpoint",
        extra={"endpoint": what, "host": host, "reason": "no TLS beyond loopback"},
    )
