"""Draws a cohort: a function of the candidates and a seed, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def select_uniform(candidates: Sequence[str], size: int, seed: int) -> tuple[str, ...]:
    """Draw ``size`` different candidates, each set with equal probability.

    Ranks the candidates by a keyed hash, so the draw does not depend on their order nor on a
    library's random stream.

    Returns:
        The drawn ones in order of their names.
    """
    key = seed.to_bytes(8, "big")
    ranked = sorted(candidates, key=lambda name: hashlib.sha256(key + name.encode()).digest())
    return tuple(sorted(ranked[:size]))
