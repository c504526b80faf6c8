"""Where images may be fetched from: which hosts, and which of their addresses."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from fedfleet_inference_api.proxies import Address

PUBLIC = "public"
_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z][a-z0-9-]{0,62}")
# Addresses of IPv6 that carry one of IPv4 in their last four bytes.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")
# Deprecated, and said to be global by the library.
_SITE_LOCAL = ipaddress.ip_network("fec0::/10")
_RELAYS = ipaddress.ip_network("192.88.99.0/24")


@dataclass(frozen=True)
class ImageHosts:
    """Args:
    is_public: any host will do; ``names`` is empty then.
    """

    names: frozenset[str] = frozenset()
    is_public: bool = False

    def __bool__(self) -> bool:
        return self.is_public or bool(self.names)

    def allows(self, host: str) -> bool:
        """Whether a host, in lower case, may be asked."""
        return self.is_public or host in self.names

    def __str__(self) -> str:
        return PUBLIC if self.is_public else ",".join(sorted(self.names))


NO_HOSTS = ImageHosts()


def parse_hosts(text: str) -> ImageHosts:
    """Parse host names separated by commas, or ``public``, or nothing."""
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if names == [PUBLIC]:
        return ImageHosts(is_public=True)
    for name in names:
        if name == PUBLIC or not _HOST.fullmatch(name):
            raise ValueError(f"must be host names separated by commas, or public: {name!r}")
    return ImageHosts(frozenset(names))


def is_public(text: str) -> bool:
    """Whether an address is one of the public Internet, also where it wraps another one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return all(_is_global(one) for one in _unwrapped(address))


def _unwrapped(address: Address) -> list[Address]:
    """An address, and the one of IPv4 that a gateway would make of it."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner = address.ipv4_mapped
    if inner is not None:
        return [inner]
    if address.sixtofour is not None:
        return [address, address.sixtofour]
    if address.teredo is not None:
        return [address, *address.teredo]
    if address in _NAT64 or address in _COMPATIBLE:
        return [address, ipaddress.IPv4Address(address.packed[-4:])]
    return [address]


def _is_global(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return True  # as public as what it carries
        if address in _NAT64_LOCAL or address in _SITE_LOCAL or address in _COMPATIBLE:
            return False
    elif address in _RELAYS:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
    )
