"""Who trains in a round, and from what: chains of workers on lanes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedfleet.types import Array

# The lane of the run's own model.
MAIN = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """Workers that train one after the other, each from the result of the one before.

    One that fails is left out: the next starts from the last result there is.

    Args:
        workers: in their order; most algorithms have chains of one.
        lane: the model that the first one starts from: a lane is a model of its own inside the
            run (a cluster's, or one of a bank); ``MAIN`` is the run's.
    """

    workers: tuple[str, ...]
    lane: str = MAIN


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cohort is made of.

    Args:
        chains: no worker is in two of them.
        updates: how many updates complete the round; None is the recipe's cohort. A quorum above
            it is lowered to it.
    """

    chains: tuple[Chain, ...]
    updates: int | None = None

    @property
    def workers(self) -> tuple[str, ...]:
        """All workers, chain after chain."""
        return tuple(worker for chain in self.chains for worker in chain.workers)


@dataclass(frozen=True, eq=False)
class PlanRequest:
    """What a plan is made from.

    Args:
        round: counted from 1.
        candidates: workers that can take an assignment now, in order.
        size: how many the recipe would draw.
        draw: draws that many of some names as the recipe's selection does, in order of the names;
            the same names and size give the same answer.
        memory: the coordinator half's.
        level_lane: the lane of a worker's level, in a run with levels.
    """

    round: int
    candidates: tuple[str, ...]
    size: int
    draw: Callable[[Sequence[str], int], tuple[str, ...]]
    memory: Mapping[str, Array]
    level_lane: Callable[[str], str] = field(default=lambda _: MAIN)
