"""How often workers take part in an experiment on skewed participation: one draw for a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from fedfleet.rounds.chance import hashed, shares


@dataclass(frozen=True, kw_only=True, slots=True)
class SkewedOptions:
    """Options of ``selection = "skewed"``.

    Args:
        skew: parameter of the Dirichlet distribution of the workers' propensities, from 0.001 to
            1e6: .05 is very unequal.
    """

    skew: float = 1.0

    def __post_init__(self) -> None:
        if not 0.001 <= self.skew <= 1e6:
            raise ValueError(f"skew = {self.skew}: must be from 0.001 to 1e6")


@lru_cache(maxsize=1 << 16)
def propensity(worker_id: str, skew: float, run_seed: int) -> float:
    """How often a worker takes part, up to a factor that is the fleet's: Gamma(skew, 1), >= 0.

    The fleet's together are a draw from a symmetric Dirichlet distribution; each worker's is a
    variate of its own, so it does not depend on who else is there. Marsaglia and Tsang 2000, A
    simple method for generating gamma variables.
    """
    uniforms = shares(hashed(run_seed, worker_id))
    # Below 1: Gamma(skew) is Gamma(skew + 1) times u^(1 / skew).
    boost = next(uniforms) ** (1 / skew) if skew < 1 else 1.0
    d = (skew if skew >= 1 else skew + 1) - 1 / 3
    while True:
        normal = math.sqrt(-2 * math.log(next(uniforms))) * math.cos(2 * math.pi * next(uniforms))
        v = (1 + normal / math.sqrt(9 * d)) ** 3
        if v > 0 and math.log(next(uniforms)) < normal**2 / 2 + d * (1 - v + math.log(v)):
            return d * v * boost
