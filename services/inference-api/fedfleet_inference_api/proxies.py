"""Whose request it is: the address that a limit counts for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Union

from starlette.types import Scope

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Networks = tuple[Union[ipaddress.IPv4Network, ipaddress.IPv6Network], ...]

# What one subscriber is given: who has one address of it has all.
IPV6_PREFIX = 64
UNKNOWN = "unknown"


def parse_networks(text: str) -> Networks:
    """Parse addresses and networks, for example ``10.0.0.7, fd00::/8``."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(ipaddress.ip_network(part) for part in parts)
    except ValueError as error:
        raise ValueError(f"must be addresses or networks, separated by commas: {error}") from error


def caller_of(scope: Scope, trusted: Networks) -> str:
    """What the limits of a request's caller are kept under.

    The peer's address; behind trusted proxies the last one in X-Forwarded-For that is not theirs.
    What stands before that one was written by the caller, so it is not looked at.
    """
    client = scope.get("client")
    address = _parse(client[0]) if client else None
    if address is None:
        return UNKNOWN
    if trusted and is_in(address, trusted):
        for text in reversed(_forwarded(scope["headers"])):
            before = _parse(text)
            if before is None:
                break
            address = before
            if not is_in(address, trusted):
                break
    return group_of(address)


def connection_group(host: str, trusted: Networks) -> str:
    """As ``caller_of``, for a connection; empty for a trusted proxy, which speaks for many."""
    address = _parse(host)
    if address is None:
        return UNKNOWN
    return "" if is_in(address, trusted) else group_of(address)


def group_of(address: Address) -> str:
    """An IPv4 address, or the network of an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


def is_in(address: Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The entries of X-Forwarded-For, nearest proxy last, of several headers too."""
    values = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    return ",".join(values).split(",") if values else []
