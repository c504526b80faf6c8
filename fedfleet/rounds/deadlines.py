"""How long a round's workers are waited for: a function of the recipe, the cohort, the history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedfleet.algorithms.plan import Chain
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.history import History

# A share is not .9000000001 of a cohort.
_ROUNDING = 1e-9


def training_deadline_s(
    rounds: RoundsConfig, history: History, chains: Sequence[Chain], attempt: int = 1
) -> float:
    """Seconds from a cohort's assignments to its deadline; 0 where the recipe's own holds.

    ``deadline = "history"``: the quantile of what the chains are expected to take, times the
    slack, at least the floor and at most ``deadline_s``. A worker is expected to take the
    exponentially weighted mean of its rounds (``Seen.expected_s``); one that was late, no less
    than it was waited for, so that a deadline that cuts off too many grows by the slack from
    round to round until it does not. A worker that was never seen is expected to take as long as
    the slowest of the run that was: unlike ``deadline_s`` that is of use in fleets whose cohorts
    are mostly new, and unlike the fleet's mean it gives a slow device its time; one that is slower
    still is late once, and known. Until anybody was seen, it is ``deadline_s``. So it is in every
    attempt of a round but the first: the history moves with commits alone, and what was too short
    for a quorum once would be again.

    Args:
        history: as of the last commit.
        chains: of the cohort; workers of a chain train one after the other.
        attempt: of the round, from 1.
    """
    if rounds.deadline == "fixed" or attempt > 1:
        return 0.0
    expected = expected_durations_s(history)
    if not expected or not chains:
        return rounds.deadline_s
    slowest_s = max(expected.values())
    lasts_s = [
        math.fsum(expected.get(worker, slowest_s) for worker in chain.workers) for chain in chains
    ]
    wanted_s = rounds.slack * quantile(lasts_s, rounds.quantile)
    return min(max(wanted_s, rounds.floor_s), rounds.deadline_s)


def expected_durations_s(history: History) -> Mapping[str, float]:
    """What each worker that was measured is expected to take, in seconds."""
    return {name: seen.expected_s for name, seen in history.seen.items() if seen.expected_s > 0}


def quantile(values: Sequence[float], share: float) -> float:
    """The least of the values that at least this share of them do not exceed.

    Args:
        values: one or more.
        share: in (0, 1].
    """
    rank = math.ceil(share * len(values) - _ROUNDING)
    return sorted(values)[max(rank, 1) - 1]
