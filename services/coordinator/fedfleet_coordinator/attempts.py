"""Slows down who tries too often: a bucket of tokens for each name or address."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote
from weakref import WeakValueDictionary

from fedfleet.errors import LimitExceeded

# Beyond, who has not tried for the longest is forgotten.
MAX_KEYS = 10_000


class Attempts:
    """Counts attempts by key; a full bucket empties by one in ``every_s``.

    Args:
        most: attempts at once.
        every_s: seconds after which one more is allowed.
        clock: any seconds that never go back.
    """

    def __init__(
        self, most: int, every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._every_s = every_s
        self._clock = clock
        # By key: when its bucket will be empty.
        self._until: OrderedDict[str, float] = OrderedDict()

    def check(self, key: str) -> None:
        """Raises LimitExceeded: too many attempts; says when the next is allowed."""
        wait_s = self._until.get(key, 0.0) - self._clock() - (self._most - 1) * self._every_s
        if wait_s > 0:
            raise LimitExceeded(f"too many attempts: try again in {wait_s:.0f} s")

    def count(self, key: str) -> None:
        """Take an attempt into account."""
        now_s = self._clock()
        self._until[key] = max(self._until.pop(key, 0.0), now_s) + self._every_s
        if len(self._until) > MAX_KEYS:
            self._until.popitem(last=False)


class Turns:
    """Lets those of one key in one after the other; of one event loop."""

    def __init__(self) -> None:
        # A lock is there for as long as somebody has it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, key: str) -> asyncio.Lock:
        """What to hold during a turn."""
        return self._locks.setdefault(key, asyncio.Lock())


def host_of(address: str) -> str:
    """The part of a caller's address that it cannot change at will.

    Args:
        address: as grpc writes it, for example ``ipv4:192.0.2.1:4711`` or ``ipv6:%5B::1%5D:4711``.

    Returns:
        For IPv6 the network of 64 bits; behind a load balancer that is the balancer's.
    """
    kind, _, rest = unquote(address).partition(":")
    text = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        host = ip_address(text)
    except ValueError:
        return kind  # a socket of this machine
    if isinstance(host, IPv6Address) and host.ipv4_mapped is None:
        return str(IPv6Address(int(host) >> 64 << 64))
    return str(getattr(host, "ipv4_mapped", None) or host)
