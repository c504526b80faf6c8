"""Draws a cohort: a function of the candidates and seeds, the same on every machine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import count

from fedfleet.rounds.config import RoundsConfig

# Of a hash's first eight bytes, so that a share is above 0 and at most 1.
_UNIT = 2.0**-64


def select_cohort(
    config: RoundsConfig, candidates: Sequence[str], size: int, *, run_seed: int, draw_seed: int
) -> tuple[str, ...]:
    """Draw ``size`` different candidates as the recipe asks.

    Args:
        run_seed: of what stays the same in every draw of the run.
        draw_seed: of this draw.

    Returns:
        The drawn ones in order of their names.
    """
    if config.selection == "skewed":
        return select_skewed(candidates, size, config.skew or 1.0, run_seed, draw_seed)
    return select_uniform(candidates, size, draw_seed)


def select_uniform(candidates: Sequence[str], size: int, seed: int) -> tuple[str, ...]:
    """Draw ``size`` different candidates, each set with equal probability.

    Ranks the candidates by a keyed hash, so the draw does not depend on their order nor on a
    library's random stream.
    """
    ranked = sorted(candidates, key=lambda name: _hash(seed, name))
    return tuple(sorted(ranked[:size]))


def select_skewed(
    candidates: Sequence[str], size: int, skew: float, run_seed: int, draw_seed: int
) -> tuple[str, ...]:
    """Draw ``size`` different candidates one after the other, in proportion to their propensities.

    The propensities of the fleet are one draw from a symmetric Dirichlet distribution with the
    parameter ``skew``: small is very unequal, large is uniform. Each worker's is a Gamma variate of
    its own, so it does not depend on who else is there. Ranking by ``log(u) / q`` is the draw
    without replacement (Efraimidis and Spirakis 2006, algorithm A).
    """

    def rank(name: str) -> tuple[float, bytes]:
        drawn = _hash(draw_seed, name)
        share = (int.from_bytes(drawn[:8], "big") + 1) * _UNIT
        return math.log(share) / max(propensity(name, skew, run_seed), 1e-300), drawn

    return tuple(sorted(sorted(candidates, key=rank, reverse=True)[:size]))


def propensity(worker_id: str, skew: float, run_seed: int) -> float:
    """How often a worker takes part, up to a factor that is the fleet's: Gamma(skew, 1), >= 0.

    Marsaglia and Tsang 2000, A simple method for generating gamma variables; from hashes, so that
    it does not depend on a library's random stream.
    """
    uniforms = _uniforms(_hash(run_seed, worker_id))
    # Below 1: Gamma(skew) is Gamma(skew + 1) times u^(1 / skew).
    boost = next(uniforms) ** (1 / skew) if skew < 1 else 1.0
    d = (skew if skew >= 1 else skew + 1) - 1 / 3
    while True:
        normal = math.sqrt(-2 * math.log(next(uniforms))) * math.cos(2 * math.pi * next(uniforms))
        v = (1 + normal / math.sqrt(9 * d)) ** 3
        if v > 0 and math.log(next(uniforms)) < normal**2 / 2 + d * (1 - v + math.log(v)):
            return d * v * boost


def _uniforms(key: bytes) -> Iterator[float]:
    """Numbers above 0 and at most 1, for ever."""
    for number in count():
        drawn = hashlib.sha256(key + number.to_bytes(8, "big")).digest()
        yield (int.from_bytes(drawn[:8], "big") + 1) * _UNIT


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(seed.to_bytes(8, "big") + name.encode()).digest()
