"""Addresses as people write them."""

from __future__ import annotations

from fedfleet.errors import SettingInvalid


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        SettingInvalid: it is neither.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_bare = bare == host and ":" in bare  # an IPv6 address without brackets
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not colon or not bare or is_bare or not 1 <= number <= 65535:
        raise SettingInvalid(f"coordinator {address!r}: must be HOST:PORT")
    return bare, number
