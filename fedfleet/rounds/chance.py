"""Chance out of hashes: the same draw on every machine, whatever a library's random stream does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import count

# Of a hash's first eight bytes, so that a share is at least 0 and below 1.
_UNIT = 2.0**-64
# A weight of zero is drawn last, not never: somebody must be.
_LEAST = 1e-300


def hashed(seed: int, name: str) -> bytes:
    """What chance knows of a name: 32 bytes that look random, and are a function of both."""
    return hashlib.sha256(seed.to_bytes(8, "big") + name.encode()).digest()


def share_of(drawn: bytes) -> float:
    """A hash as a number of [0, 1)."""
    return min(int.from_bytes(drawn[:8], "big") * _UNIT, math.nextafter(1.0, 0.0))


def shares(key: bytes) -> Iterator[float]:
    """Numbers above 0 and at most 1, for ever."""
    for number in count():
        yield 1.0 - share_of(hashlib.sha256(key + number.to_bytes(8, "big")).digest())


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """The names in an order of chance: each with equal probability."""
    return sorted(names, key=lambda name: hashed(seed, name))


def raced(weights: Mapping[str, float], size: int, seed: int) -> list[str]:
    """Draw up to ``size`` names one after the other, each time in proportion to the weights left.

    The first arrivals of a race in which each name's time is exponential with its weight as the
    rate (Efraimidis and Spirakis 2006, algorithm A). With equal weights it is the beginning of
    ``shuffled``.

    Args:
        weights: 0 or more.
    """

    def arrival(name: str) -> tuple[float, bytes]:
        drawn = hashed(seed, name)
        return -math.log1p(-share_of(drawn)) / max(weights[name], _LEAST), drawn

    return sorted(weights, key=arrival)[:size]
