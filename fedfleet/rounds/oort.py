"""Oort (Lai et al. 2021, arXiv 2010.06081, Algorithm 1; constants as its authors publish them).

A worker's score is its statistical utility, samples * sqrt(mean squared sample loss), clipped at
the 98th percentile and scaled to [0, 1], plus sqrt(0.1 ln t / last) for how long ago it took part;
times (T / duration)^penalty where it takes longer than T. T is a percentile of the durations,
which the pacer moves: up when the utility that rounds bring stays flat, down when it jumps. Of each
cohort a share is for workers that never took part (.9 at first, less each round); the others are
drawn in proportion to their scores among all that reach ``cut_off`` of the score at the cohort's
edge.

Workers that were never asked are drawn alike: nothing is known of them, where the authors take
sizes and speeds from a registration. One whose assignments came to nothing has no utility and no
duration: it comes back with time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fedfleet.rounds.chance import raced, shuffled
from fedfleet.rounds.history import History

_CLIP = 0.98
_STALENESS = 0.1
# The pacer's windows are alike within a tenth, and unlike from six times on.
_FLAT, _SHARP = 0.1, 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OortOptions:
    """Options of ``selection = "oort"``.

    Args:
        exploration: share of the cohort that is for workers that never took part, in [0, 1]; in
            round t it is exploration * exploration_decay^t, at least exploration_floor, and 0 once
            all took part.
        exploration_decay: in (0, 1].
        exploration_floor: in [0, 1].
        cut_off: share of the score at the cohort's edge from which on a worker may be drawn, in
            (0, 1].
        penalty: how much a duration above the preferred one costs, 0 or more; 0 looks at no
            duration.
        preferred: percentile of the durations above which a worker is slow, in (0, 100]; 100 calls
            nobody slow.
        pacer_step: rounds between moves of ``preferred``.
        pacer_delta: by how much it moves, 0 or more.
        blacklist_after: assignments after which a worker is not drawn any more while there are
            others; absent means never.
    """

    exploration: float = 0.9
    exploration_decay: float = 0.95
    exploration_floor: float = 0.2
    cut_off: float = 0.7
    penalty: float = 2.0
    preferred: float = 10.0
    pacer_step: int = 20
    pacer_delta: float = 5.0
    blacklist_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("exploration", "exploration_floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be in [0, 1]")
        for name in ("exploration_decay", "cut_off"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be in (0, 1]")
        for name in ("penalty", "pacer_delta"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} = {getattr(self, name)}: must be from 0 to 100")
        if not 0 < self.preferred <= 100:
            raise ValueError(f"preferred = {self.preferred}: must be above 0 and at most 100")
        if self.pacer_step < 1:
            raise ValueError(f"pacer_step = {self.pacer_step}: must be 1 or more")
        if self.blacklist_after is not None and self.blacklist_after < 1:
            raise ValueError(f"blacklist_after = {self.blacklist_after}: must be 1 or more")


def select_oort(
    names: Collection[str],
    size: int,
    options: OortOptions,
    history: History,
    round: int,
    seed: int,
) -> tuple[str, ...]:
    """Draw ``size`` different candidates; in order of their names."""
    allowed = _not_blacklisted(names, size, options, history)
    known = [name for name in allowed if history.of(name).asked]
    unknown = [name for name in allowed if not history.of(name).asked]
    share = exploration(options, round) if unknown else 0.0
    # No share of a cohort is .9999999 of a worker.
    picked = _exploit(known, int(size * (1 - share) + 1e-9), options, history, round, seed)
    picked += shuffled(unknown, seed)[: size - len(picked)]
    rest = shuffled(set(known) - set(picked), seed)
    return tuple(sorted([*picked, *rest[: size - len(picked)]]))


def exploration(options: OortOptions, round: int) -> float:
    """The share of the cohort that is for workers that never took part."""
    decayed = options.exploration * options.exploration_decay**round
    return max(decayed, options.exploration_floor)


def scores(
    names: Sequence[str], options: OortOptions, history: History, round: int
) -> dict[str, float]:
    """How much it is worth to ask each of the workers that took part before; 0 or more."""
    utilities = {name: history.of(name).utility for name in names}
    positive = sorted(utility for utility in utilities.values() if utility > 0) or [0.0]
    clip = positive[min(int(len(positive) * _CLIP), len(positive) - 1)]
    least = 0.999 * positive[0]
    spread = max(positive[-1] - least, 1e-4)
    longest_s = preferred_duration_s(options, history, round)
    found = {}
    for name in names:
        seen = history.of(name)
        score = max(0.0, (min(utilities[name], clip) - least) / spread)
        score += math.sqrt(_STALENESS * math.log(round) / seen.last)
        if seen.duration_s > longest_s:
            score *= (longest_s / seen.duration_s) ** options.penalty
        found[name] = score
    return found


def preferred_duration_s(options: OortOptions, history: History, round: int) -> float:
    """The duration above which a worker is slow."""
    percentile = pace(options, history.utility, round)
    durations = sorted(seen.duration_s for seen in history.seen.values() if seen.duration_s > 0)
    if percentile >= 100 or not durations:
        return math.inf
    return durations[min(int(len(durations) * percentile / 100), len(durations) - 1)]


def pace(options: OortOptions, utility: Sequence[float], round: int) -> float:
    """The percentile of the durations that is preferred in a round.

    Every ``pacer_step`` rounds the utility of that many rounds is compared with that of as many
    before them. A function of what the rounds brought, so that nothing more need be kept.

    Args:
        utility: of each round before this one.
    """
    percentile, step = options.preferred, options.pacer_step
    # As its authors count: the first round begins with an entry of its own.
    entries = (0.0, *utility[: round - 1])
    for now in range(2 * step, round + 1, step):
        earlier = math.fsum(entries[now - 2 * step : now - step])
        change = abs(math.fsum(entries[now - step : now]) - earlier)
        if change <= _FLAT * earlier:
            percentile = min(100.0, percentile + options.pacer_delta)
        elif change >= _SHARP * earlier:
            percentile = max(options.pacer_delta, percentile - options.pacer_delta)
    return percentile


def _exploit(
    known: Sequence[str],
    size: int,
    options: OortOptions,
    history: History,
    round: int,
    seed: int,
) -> list[str]:
    """Draw among the best of those that took part before."""
    size = min(size, len(known))
    if size == 0:
        return []
    found = scores(known, options, history, round)
    ranked = sorted(found.values(), reverse=True)
    edge = options.cut_off * ranked[min(size, len(ranked) - 1)]
    pool: Mapping[str, float] = {name: score for name, score in found.items() if score >= edge}
    return raced(pool, size, seed)


def _not_blacklisted(
    names: Collection[str], size: int, options: OortOptions, history: History
) -> list[str]:
    """The candidates without those that were asked too often, unless the others do not suffice."""
    most = options.blacklist_after or math.inf
    # Whoever was asked least often comes first.
    ranked = sorted(names, key=lambda name: (history.of(name).asked, name))
    fresh = [name for name in ranked if history.of(name).asked < most]
    return fresh if len(fresh) >= size else ranked[:size]
