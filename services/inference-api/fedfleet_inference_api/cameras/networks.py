"""Which addresses a camera may have, and the one address that a connection goes to."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

PORTS = frozenset({554, 8554, 322, 80, 443})

MOST_ADDRESSES = 4

# Where no camera is, but much that should not be reached. Listed rather than asked of ipaddress,
# which has another opinion in each version of Python.
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
            # Unspecified, loopback, and IPv4 within IPv6, also that of NAT64, Teredo and 6to4.
            *("::/8", "2001::/32", "2002::/16"),
            *("fe80::/10", "fec0::/10", "ff00::/8"),
            # Where clouds keep credentials, beside the link-local 169.254.169.254.
            *("fd00:ec2::254", "100.100.100.200", "192.0.0.192"),
            *("168.63.129.16", "fd20:ce::254"),
        ),
    )
)
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


class NotAllowed(Exception):
    """No address of this host is one that a camera may have."""


@dataclass(frozen=True)
class CameraNetworks:
    """The places that cameras may be at. Empty: the operator's own file alone says where they are.

    Args:
        networks: their addresses; loopback, link-local, multicast, unspecified and metadata
            addresses only through a network that holds no others.
        hosts: names, lower case, whose addresses are taken as they are, but for those.
        ports: that they may listen on.
    """

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    ports: frozenset[int] = PORTS

    def __bool__(self) -> bool:
        return bool(self.networks or self.hosts)

    def allows(self, host: str, address: Address, port: int) -> bool:
        """Whether a connection may go to this address, which the host has."""
        if not self:
            return True
        holding = [one for one in self.networks if address in one]
        if _is_special(address):
            is_listed = any(_is_special_network(one) for one in holding)
        else:
            is_listed = bool(holding) or host in self.hosts
        return is_listed and port in self.ports

    def may_hold(self, host: str, port: int) -> bool:
        """Whether a place can be allowed at all, as far as that is known without the resolver."""
        address = unwrapped(host)
        if address is not None:
            return self.allows(host, address, port)
        return not self or port in self.ports

    def to_json(self) -> dict[str, list[str] | list[int]]:
        return {
            "networks": [str(one) for one in self.networks],
            "hosts": sorted(self.hosts),
            "ports": sorted(self.ports),
        }


def networks_from_json(value: dict[str, list[str]]) -> CameraNetworks:
    """What ``to_json`` wrote."""
    return CameraNetworks(
        tuple(ipaddress.ip_network(one) for one in value["networks"]),
        frozenset(value["hosts"]),
        frozenset(int(port) for port in value["ports"]),
    )


def parse_camera_networks(text: str) -> CameraNetworks:
    """Parse networks, addresses and host names, for example ``192.168.1.0/24, door.lan``.

    Raises:
        ValueError: one of them is none of these.
    """
    networks: list[Network] = []
    hosts: set[str] = set()
    for part in (part.strip() for part in text.split(",")):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError:
            if part and (not _NAME.fullmatch(part) or re.fullmatch(r"[\d.]+", part)):
                raise ValueError(
                    "must be networks, addresses and host names, separated by commas"
                ) from None
            hosts |= {part.lower().rstrip(".")} - {""}
    return CameraNetworks(tuple(networks), frozenset(hosts))


def parse_ports(text: str) -> frozenset[int]:
    """Parse port numbers, separated by commas.

    Raises:
        ValueError: one is none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 65535 for part in parts):
        raise ValueError("must be port numbers, separated by commas")
    return frozenset(map(int, parts))


def resolve(host: str, port: int, networks: CameraNetworks) -> list[str]:
    """The addresses to connect to: those of the host's that are allowed. Blocks on the resolver.

    The connection must go to one of these, not to the name: a second look at the resolver may
    have another answer.

    Raises:
        NotAllowed: none is.
        OSError: the name has no address.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [unwrapped(str(place[0])) for *_, place in found]
    allowed = [str(one) for one in addresses if one and networks.allows(host, one, port)]
    if not allowed:
        raise NotAllowed
    return list(dict.fromkeys(allowed))[:MOST_ADDRESSES]


def unwrapped(text: str) -> Address | None:
    """An address; an IPv4 one that is written as IPv6 is the IPv4 one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_special(address: Address) -> bool:
    return any(address in block for block in _SPECIAL)


def _is_special_network(network: Network) -> bool:
    """Whether a network was listed for its special addresses, not 0.0.0.0/0 and the like."""
    mine = (block for block in _SPECIAL if block.version == network.version)
    return any(network.subnet_of(block) for block in mine)  # type: ignore[arg-type]  # one version
