"""Draws without replacement in which every candidate's chance is known exactly.

Madow's systematic sampling (Madow 1949, On the theory of systematic sampling, II): the chances lie
one behind the other on a line, and a comb with one tooth per unit is put down at random; who is hit
is drawn. The chances add up to the size, none is above 1, so exactly that many different ones are.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from fedfleet.rounds.chance import hashed, share_of, shuffled

# Chances are whole multiples of 1 / TICKS: the line has no rounding, and Python's whole numbers no
# end.
TICKS = 1 << 53
# A candidate of no weight is drawn a thousand times more rarely than the mean one, not never: what
# it would have said can then be weighed up, within fedavg.MAX_CORRECTION.
_RAREST = 1e-3


def inclusion(weights: Mapping[str, float], size: int) -> dict[str, int]:
    """How likely each candidate is to be among ``size`` drawn ones, in ticks.

    In proportion to the weights, where that is not above 1: min(1, a q) with the ``a`` that makes
    them add up to ``size``.

    Args:
        weights: finite, 0 or more, in any unit.
        size: at most as many as there are.

    Returns:
        From 1 to ``TICKS`` each, ``size * TICKS`` together; in order of the names.
    """
    # In units of the largest, since sums of very small or very large ones would lose them. All zero
    # says nothing: all alike.
    largest = max(weights.values())
    shares = {name: weights[name] / largest if largest else 1.0 for name in sorted(weights)}
    floor = _RAREST * math.fsum(shares.values()) / len(shares)
    # Whole numbers from here on.
    whole = {name: math.ceil(max(share, floor) * TICKS) for name, share in shares.items()}
    ticks: dict[str, int] = {}
    left, total = size, sum(whole.values())
    for name in sorted(whole, key=lambda name: -whole[name]):
        # The largest first: once one stays below 1, all behind it do.
        capped = whole[name] * left >= total
        ticks[name] = TICKS if capped else whole[name] * left * TICKS // total
        if capped:
            left, total = left - 1, total - whole[name]
    return _filled(ticks, size)


def _filled(ticks: Mapping[str, int], size: int) -> dict[str, int]:
    """With what rounding down left out, a tick for each of the first that have room."""
    missing = size * TICKS - sum(ticks.values())
    filled = {}
    for name in sorted(ticks):
        add = 1 if missing > 0 and ticks[name] < TICKS else 0
        filled[name] = ticks[name] + add
        missing -= add
    assert missing == 0, "rounding down leaves out less than a tick of each"
    return filled


def systematic(ticks: Mapping[str, int], seed: int) -> tuple[str, ...]:
    """Draw by chances in ticks that add up to a whole number; the drawn ones in order."""
    # The line's order is of chance, or neighbours by name would never be drawn together.
    return comb(ticks, shuffled(ticks, seed), int(share_of(hashed(seed, "\0start")) * TICKS))


def comb(ticks: Mapping[str, int], order: Sequence[str], start: int) -> tuple[str, ...]:
    """Whom the teeth hit.

    Args:
        order: of the names on the line.
        start: of the first tooth, from 0 to below ``TICKS``.
    """
    ends = list(accumulate(ticks[name] for name in order))
    teeth = range(start, ends[-1], TICKS)
    return tuple(sorted(order[bisect_right(ends, tooth)] for tooth in teeth))


def corrections(ticks: Mapping[str, int], drawn: Sequence[str]) -> dict[str, float]:
    """What makes up for unequal chances: how much more often each would be drawn if all were alike.

    With N candidates, m drawn ones and chances pi, it is m / (N pi), from m / N to
    ``fedavg.MAX_CORRECTION``: then (1 / m) sum over the drawn ones of correction * value is in
    expectation the mean over all candidates (Horvitz and Thompson 1952, A generalization of
    sampling without replacement from a finite universe).
    """
    alike = len(drawn) * TICKS / len(ticks)
    return {name: alike / ticks[name] for name in drawn}
