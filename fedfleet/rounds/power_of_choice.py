"""Power of choice (Cho, Wang and Joshi 2020, arXiv 2010.01243, section 4).

Draw d candidates without replacement in proportion to their shares of the data, p_k; estimate each
one's loss; the m with the largest train. The estimate is the loss of the current version on all of
a worker's training examples (pow-d), on a random batch of them (cpow-d), or the loss that it last
reported from training, which costs nothing (rpow-d; infinite for whoever never took part). With
d = m it is a random draw, with d = N the greedy one. The paper averages the updates alike:
``weighting = "uniform"``. What is drawn has no known chance, so no weights make it unbiased.

Here p_k is by the samples last reported. A worker whose assignments came to nothing so far counts
as the middle of those that have a loss: with an infinite one it would be asked in every round.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from fedfleet.rounds.chance import hashed, raced
from fedfleet.rounds.history import History


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerOfChoiceOptions:
    """Options of ``selection = "power-of-choice"``.

    Args:
        candidates: workers among which those with the largest losses are taken (the paper's d), at
            least cohort + over_select; as many as there are is the greedy choice.
        loss: on ``full`` training data or a ``sample`` of it (one batch), asked from the candidates
            before each round; or the ``last`` one that a worker reported, which needs no question.
    """

    candidates: int
    loss: Literal["last", "sample", "full"] = "last"

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 1_000_000:
            raise ValueError(f"candidates = {self.candidates}: must be from 1 to 1000000")


def nominate(names: Collection[str], count: int, history: History, seed: int) -> list[str]:
    """Draw the candidates, in an order of chance."""
    return raced(history.samples(names), count, seed)


def last_losses(names: Sequence[str], history: History) -> dict[str, float]:
    """What each is taken to lose on the current version, without asking it."""
    known = [seen.loss for seen in history.seen.values() if not math.isnan(seen.loss)]
    middle = median(known) if known else math.inf
    losses = {}
    for name in names:
        seen = history.of(name)
        unknown = middle if seen.asked else math.inf
        losses[name] = unknown if math.isnan(seen.loss) else seen.loss
    return losses


def take_largest(losses: Mapping[str, float], size: int, seed: int) -> tuple[str, ...]:
    """The names with the largest losses, equal ones by chance; in order of the names."""
    ranked = sorted(losses, key=lambda name: (-losses[name], hashed(seed, name)))
    return tuple(sorted(ranked[:size]))
