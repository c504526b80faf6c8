"""The names by which a service is asked that asks for no key."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable

from fedfleet.errors import NotAllowed

ANY = "*"

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d*)?")


def parse_hostnames(text: str) -> frozenset[str]:
    """Parse host names, for example ``fleet.lan, inference-api``; ``*`` is any.

    Raises:
        ValueError: one of them is none.
    """
    names = {part.strip().lower().rstrip(".") for part in text.split(",") if part.strip()}
    if not all(name == ANY or _NAME.fullmatch(name) for name in names):
        raise ValueError("must be host names without ports, separated by commas, or *")
    return frozenset(names)


def own_names(host: str, more: Collection[str]) -> frozenset[str]:
    """What a service that listens on a host is called, beside every address."""
    return frozenset({"localhost", host.strip("[]").lower().rstrip("."), *more} - {""})


def check_host(headers: Iterable[tuple[bytes, bytes]], names: Collection[str]) -> None:
    """Let no page read here under a name of its own, which it has led to this machine since.

    To its reader's browser such a page and this service are one host, so nothing else keeps it
    from what is answered here without a key (DNS rebinding). An address is no such name.

    Args:
        headers: names in lower case, and values, as they came.

    Raises:
        NotAllowed: the request is for another host.
    """
    for header, value in headers:
        if header != b"host" or ANY in names:
            continue
        host = _HOST.fullmatch(value.decode("latin-1").lower())
        name = host["name"].strip("[]").rstrip(".") if host else ""
        if name not in names and not _is_address(name):
            raise NotAllowed(
                "callers need no key here, so the Host must be an address, localhost or a name "
                "that FEDFLEET_HOSTNAMES lists: ask by one of these, or set FEDFLEET_REST_AUTH=on"
            )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
