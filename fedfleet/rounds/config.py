"""How rounds are run: cohort, quorum, deadline, pace."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

# With it a delta of weight 1 is still summed in steps of 2^-16; see aggregation/exact_sum.py.
MAX_TOTAL_WEIGHT = 1 << 36
_RANGES = (
    ("rounds", 1, 1_000_000),
    ("cohort", 1, 100_000),
    ("over_select", 0, 100_000),
    ("attempts", 1, 1000),
    ("max_weight", 1, 1 << 31),
)
Mode = Literal["synchronous", "semi-synchronous"]
_OF_HISTORY = ("deadline_quantile", "deadline_slack", "min_deadline_s")
_QUANTILE, _SLACK, _FLOOR_S = 0.9, 1.5, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsConfig:
    """The pace of a run.

    Args:
        rounds: how many versions the run makes.
        cohort: updates that complete a round.
        over_select: workers asked beyond the cohort; the first ``cohort`` updates close the round.
        quorum: fewest updates with which a round may close at its deadline; absent means cohort.
        min_workers: connected workers to wait for before a cohort is drawn; absent means
            cohort + over_select. At the deadline a quorum is enough.
        mode: ``synchronous`` waits for the cohort; in ``semi-synchronous`` a round is a period of
            deadline_s in which everybody trains, training.epochs at the most, and sends what it
            has (docs/devices.md).
        deadline_s: seconds from the assignments (or from the wait for workers) to the deadline.
        deadline: ``fixed`` is deadline_s; ``history`` is as long as the cohort's rounds took
            before, at most deadline_s (docs/devices.md).
        deadline_quantile: of the cohort's expected durations, in (0, 1]; absent means 0.9.
        deadline_slack: times that quantile, 1 or more; absent means 1.5.
        min_deadline_s: the least that comes of it, in seconds; absent means 1.
        attempts: deadlines that one round may pass before the run fails; those at which too few
            workers are ready while others rest on their device do not count.
        selection: how the cohort is drawn from the connected workers; docs/selection.md.
        options: an instance of the selection's options class; absent means its defaults.
        tags: only workers that carry one of these take part in the run; empty means all.
        fleet: workers that hold data for the run, connected or not; absent means data.workers. For
            algorithms that must know it.
        max_weight: largest weight (training samples) of one update. The exact sum's resolution is
            chosen from max_weight times the cohort.
    """

    rounds: int
    cohort: int
    over_select: int = 0
    quorum: int | None = None
    min_workers: int | None = None
    mode: Mode = "synchronous"
    deadline_s: float = 300.0
    deadline: Literal["fixed", "history"] = "fixed"
    deadline_quantile: float | None = None
    deadline_slack: float | None = None
    min_deadline_s: float | None = None
    attempts: int = 3
    selection: str = "uniform"
    options: Any = None
    tags: tuple[str, ...] = ()
    fleet: int | None = None
    max_weight: int = 1 << 20

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: must be from {least} to {most}")
        if self.cohort * self.max_weight > MAX_TOTAL_WEIGHT:
            raise ValueError(
                f"max_weight = {self.max_weight}: times cohort ({self.cohort}) it must be at most "
                f"{MAX_TOTAL_WEIGHT}, beyond which the exact sum loses small deltas"
            )
        if self.quorum is not None and not 1 <= self.quorum <= self.cohort:
            raise ValueError(f"quorum = {self.quorum}: must be from 1 to cohort ({self.cohort})")
        if self.min_workers is not None and self.min_workers < self.needed:
            raise ValueError(
                f"min_workers = {self.min_workers}: must be at least quorum ({self.needed})"
            )
        if not all(self.tags) or len(set(self.tags)) != len(self.tags):
            raise ValueError("tags: must be different names, none of them empty")
        if self.fleet is not None and self.fleet < self.cohort:
            raise ValueError(f"fleet = {self.fleet}: must be at least cohort ({self.cohort})")
        if not 0 < self.deadline_s < float("inf"):
            raise ValueError(f"deadline_s = {self.deadline_s}: must be above 0")
        self._check_deadline()
        self._check_mode()

    def _check_deadline(self) -> None:
        if self.deadline == "fixed":
            for name in _OF_HISTORY:
                if getattr(self, name) is not None:
                    raise ValueError(f'{name}: is of deadline = "history"; leave one out')
            return
        if not 0 < self.quantile <= 1:
            raise ValueError(f"deadline_quantile = {self.quantile}: must be above 0 and at most 1")
        if not 1 <= self.slack <= 1000:
            raise ValueError(f"deadline_slack = {self.slack}: must be from 1 to 1000")
        if not 0 < self.floor_s <= self.deadline_s:
            raise ValueError(
                f"min_deadline_s = {self.floor_s}: must be above 0 and at most deadline_s "
                f"({self.deadline_s})"
            )

    def _check_mode(self) -> None:
        if self.mode == "synchronous":
            return
        if self.deadline == "history":
            raise ValueError(
                'deadline = "history": in mode = "semi-synchronous" rounds last for deadline_s; '
                "leave one out"
            )
        if self.over_select:
            raise ValueError(
                f"over_select = {self.over_select}: nobody is replaced by who is faster in mode = "
                '"semi-synchronous"; leave one out'
            )

    @property
    def quantile(self) -> float:
        """Of the cohort's expected durations, for a deadline from its history."""
        return _QUANTILE if self.deadline_quantile is None else self.deadline_quantile

    @property
    def slack(self) -> float:
        """What that quantile is multiplied with."""
        return _SLACK if self.deadline_slack is None else self.deadline_slack

    @property
    def floor_s(self) -> float:
        """The shortest deadline from a history."""
        return (
            min(_FLOOR_S, self.deadline_s) if self.min_deadline_s is None else self.min_deadline_s
        )

    @property
    def needed(self) -> int:
        """The fewest updates that make a round."""
        return self.cohort if self.quorum is None else self.quorum

    @property
    def wants_rms_loss(self) -> bool:
        """Whether the selection lives on the root of the mean squared loss of a sample."""
        return self.selection == "oort"

    def admits(self, tags: Collection[str]) -> bool:
        """Whether a worker that carries these tags takes part in the run."""
        return not self.tags or not set(self.tags).isdisjoint(tags)

    @property
    def tagged(self) -> str:
        """What a message adds to the word workers."""
        return f" that carry a tag of {', '.join(self.tags)}" if self.tags else ""

    @property
    def awaited(self) -> int:
        """Connected workers that a selection before the deadline waits for."""
        return self.min_workers or self.cohort + self.over_select
