"""When to try again: exponential backoff with full jitter."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff_s(first_s: float = 0.1, most_s: float = 20.0) -> Iterator[float]:
    """Yield waits: each uniform from 0 to a bound that doubles up to ``most_s``.

    Full jitter spreads a fleet that lost its coordinator at one instant.
    """
    bound_s = first_s
    while True:
        yield random.uniform(0, bound_s)  # noqa: S311 - spreading load, not keeping a secret
        bound_s = min(most_s, 2 * bound_s)
