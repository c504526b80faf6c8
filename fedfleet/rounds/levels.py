"""Who trains which width of the model: the recipe's ``[levels]`` (HeteroFL, Diao et al. 2021,
arXiv:2010.01264, section 3).

A level is named by a letter, ``a`` for the whole width. The machine and the journal know a worker's
level as the lane of its chain, with ``MAIN`` for level ``a``.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from fedfleet.aggregation.coverage import ClassRows
from fedfleet.aggregation.slices import Slice
from fedfleet.algorithms.plan import MAIN
from fedfleet.rounds.chance import hashed, share_of
from fedfleet.wire.limits import MAX_LEVELS

FULL = "a"
_SUM_ERROR = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelsConfig:
    """The widths of a run, and how workers come by theirs.

    Args:
        rates: width of each level as a share of the recipe's model, from 1.0 downwards; they are
            named ``a``, ``b``, ``c`` and so on.
        assignment: ``fixed`` gives each worker one level for the run; ``dynamic`` draws it anew for
            each round; ``measured`` takes the widest with which the worker meets ``target_s``.
        shares: part of the fleet at each level (``fixed``, ``dynamic``); absent means alike.
        workers: levels by worker id, instead of what ``assignment`` would give.
        target_s: seconds that a worker's part of a round should take (``measured``).
        submodel: ``prefix`` slices the first channels of every layer; ``rolling`` moves the slice
            on by a channel each round, so that every coordinate is trained (FedRolex, Alam et al.
            2022, arXiv:2212.01548).
        scaler: divide hidden outputs of a narrower model by its rate in training.
        static_norm: have the running statistics of each version, and of its slice at every level,
            measured by the workers that trained the whole width, before it is published; for a
            model without any, nothing.
    """

    rates: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125, 0.0625)
    assignment: Literal["fixed", "dynamic", "measured"] = "fixed"
    shares: tuple[float, ...] | None = None
    workers: Mapping[str, str] | None = None
    target_s: float | None = None
    submodel: Literal["prefix", "rolling"] = "prefix"
    scaler: bool = True
    static_norm: bool = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.rates) <= MAX_LEVELS:
            raise ValueError(f"rates: must be 1 to {MAX_LEVELS} numbers")
        if self.rates[0] != 1.0 or any(
            not 0 < low < high for high, low in zip(self.rates, self.rates[1:], strict=False)
        ):
            raise ValueError(f"rates = {list(self.rates)}: must begin with 1.0, fall, and stay > 0")
        if self.shares is not None:
            self._check_shares(self.shares)
        for name, level in (self.workers or {}).items():
            if level not in self.names:
                known = ", ".join(self.names)
                raise ValueError(f'workers.{name} = "{level}": must be one of {known}')
        if (self.assignment == "measured") != (self.target_s is not None):
            raise ValueError('target_s: belongs to assignment = "measured", which needs it')
        if self.target_s is not None and not 0 < self.target_s < float("inf"):
            raise ValueError(f"target_s = {self.target_s}: must be above 0")

    def _check_shares(self, shares: Sequence[float]) -> None:
        if self.assignment == "measured":
            raise ValueError('shares: have no meaning with assignment = "measured"')
        if len(shares) != len(self.rates) or any(share < 0 for share in shares):
            raise ValueError(f"shares: must be {len(self.rates)} numbers, one per rate, from 0 on")
        if abs(sum(shares) - 1) > _SUM_ERROR:
            raise ValueError(f"shares: add up to {sum(shares):g}; they must to 1")

    @property
    def names(self) -> tuple[str, ...]:
        """The levels, the widest first."""
        return tuple(string.ascii_lowercase[: len(self.rates)])

    def at(self, position: float) -> str:
        """The level at a place in [0, 1) of the fleet, ordered by level."""
        shares = self.shares or (1 / len(self.rates),) * len(self.rates)
        ends = accumulate(shares)
        for name, end in zip(self.names, ends, strict=True):
            if position < end - _SUM_ERROR:
                return name
        return max(name for name, share in zip(self.names, shares, strict=True) if share > 0)


@dataclass(frozen=True, eq=False, slots=True)
class Width:
    """One level of the model, as a round has it.

    Args:
        rows: of the level's trainable vector, for aggregation by class; None where that is not
            asked for.
    """

    slice: Slice
    rows: ClassRows | None


# By lane, ``MAIN`` included.
Widths = Mapping[str, Width]


def lane_of_level(level: str) -> str:
    """How the machine names a level."""
    return MAIN if level == FULL else level


def level_of_lane(lane: str) -> str:
    """The level that a lane of a run with levels stands for; ``a`` in a run without."""
    return lane or FULL


def assigned_level(
    config: LevelsConfig, worker_id: str, *, seed: int, round: int, workers: int | None
) -> str:
    """The level of a worker whose level is not measured: a function of its arguments.

    In ``fixed``, workers whose ids end in their number below ``workers`` (``worker-0`` and so on)
    get the levels in blocks, as HeteroFL's fixed mode has it; others by chance, from their id.

    Args:
        seed: of the run's levels.
        workers: how many the recipe's data are split over; None where it does not say.
    """
    named = (config.workers or {}).get(worker_id)
    if named is not None:
        return named
    if config.assignment == "dynamic":
        return config.at(share_of(hashed(seed, f"{round}/{worker_id}")))
    number = worker_id.rpartition("-")[2]
    if workers and number.isdecimal() and int(number) < workers:
        return config.at((int(number) + 0.5) / workers)
    return config.at(share_of(hashed(seed, worker_id)))
