"""Availability: when each simulated worker is connected, in virtual time.

A file of its own beside the device profiles: a list of ``[[traces]]`` tables, each for some workers
or for a share of the fleet. Who is in none of them is always there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, islice

from fedfleet.errors import RecipeInvalid, SettingInvalid
from fedfleet.rounds.chance import hashed, share_of, shuffled
from fedfleet.tables import parse_table, printable, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DAY_S = 86_400.0
_SUM_ERROR = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """When some of the workers are there.

    Args:
        workers: by their ids; or ``share``: a part of the fleet, in (0, 1], drawn by the recipe's
            seed among those that are not named.
        online_s: pairs of on and off in seconds from the run's beginning, in order; off may be inf.
            An empty list is never.
        period_s: after which online_s begins again; absent means that what comes after the last
            off is never.
        daily_ratio: instead of online_s, each worker is there for this part of each day, in (0, 1).
        peak_s: of the day, when most of them are; absent means 2 in the night, when devices
            that people use are on their chargers.
        spread_s: standard deviation of the middles of the workers' parts; absent means 3 hours.
    """

    workers: tuple[str, ...] | None = None
    share: float | None = None
    online_s: tuple[tuple[float, ...], ...] | None = None
    period_s: float | None = None
    daily_ratio: float | None = None
    peak_s: float | None = None
    spread_s: float | None = None

    def __post_init__(self) -> None:
        for one, other in (("workers", "share"), ("online_s", "daily_ratio")):
            if (getattr(self, one) is None) == (getattr(self, other) is None):
                raise ValueError(f"{one}: set either it or {other}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share = {self.share}: must be above 0 and at most 1")
        if self.daily_ratio is not None and not 0 < self.daily_ratio < 1:
            raise ValueError(f"daily_ratio = {self.daily_ratio}: must be above 0 and below 1")
        for name in ("peak_s", "spread_s"):
            value = getattr(self, name)
            if value is None:
                continue
            if self.daily_ratio is None:
                raise ValueError(f"{name}: is of daily_ratio; leave one out")
            if not 0 <= value < DAY_S:
                raise ValueError(f"{name} = {value}: must be from 0 to below {DAY_S:g}")
        if self.period_s is not None:
            self._check_period(self.period_s)
        self._check_online()

    def _check_period(self, period_s: float) -> None:
        if self.daily_ratio is not None:
            raise ValueError("period_s: with daily_ratio it is a day; leave one out")
        if not 0 < period_s < math.inf:
            raise ValueError(f"period_s = {period_s}: must be above 0")

    def _check_online(self) -> None:
        before_s = 0.0
        for pair in self.online_s or ():
            if len(pair) != 2 or not before_s <= pair[0] < pair[1]:
                raise ValueError(
                    f"online_s: {list(pair)} must be [on, off] with on below off, after the pair "
                    "before it"
                )
            before_s = pair[1]
        if before_s > (self.period_s or math.inf):
            raise ValueError(f"online_s: must end by period_s ({self.period_s})")


def parse_traces(text: str) -> tuple[Trace, ...]:
    """Read a file of traces.

    Raises:
        SettingInvalid: naming the field, its value and what is allowed.
    """
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingInvalid(f"availability: not TOML: {printable(str(error))}") from error
    tables = found.get("traces")
    if set(found) != {"traces"} or not isinstance(tables, list) or not tables:
        raise SettingInvalid("availability: must hold a list of [[traces]] tables and nothing else")
    for place, table in enumerate(tables):
        if not isinstance(table, dict):
            raise SettingInvalid(f"availability: traces[{place}] = {shown(table)}: must be a table")
    try:
        traces = tuple(
            parse_table(Trace, table, f"traces[{place}]") for place, table in enumerate(tables)
        )
    except RecipeInvalid as error:  # what reads tables knows recipes only
        raise SettingInvalid(f"availability: {error.message}") from error
    shares = math.fsum(trace.share or 0.0 for trace in traces)
    if shares > 1 + _SUM_ERROR:
        raise SettingInvalid(f"availability: the shares add up to {shares:g}; at most to 1")
    named = [name for trace in traces for name in trace.workers or ()]
    if len(set(named)) != len(named):
        raise SettingInvalid("availability: a worker is named in two traces")
    return traces


@dataclass(frozen=True, slots=True)
class Times:
    """When one worker is there.

    Args:
        online_s: pairs of on and off, in order, apart from one another.
        period_s: after which they begin again; inf for never.
        from_s: where the first period begins; may be negative.
    """

    online_s: tuple[tuple[float, float], ...]
    period_s: float = math.inf
    from_s: float = 0.0

    def is_there(self, at_s: float) -> bool:
        """Whether the worker is connected: from on to before off."""
        first = self._number(at_s) - 1
        begins = [self._begins_s(number) for number in range(first, first + 3)]
        return any(
            begun_s + on_s <= at_s < begun_s + off_s
            for begun_s in begins
            for on_s, off_s in self.online_s
        )

    def changes(self, after_s: float) -> Iterator[tuple[float, bool]]:
        """When the worker comes (True) and goes (False) after a moment, one after the other."""
        edges = self._edges()
        is_there = self.is_there(after_s)
        for number in count(self._number(after_s) - 1) if edges else ():
            for edge_s, comes in edges:
                changed_s = self._begins_s(number) + edge_s
                if after_s < changed_s < math.inf and comes != is_there:
                    yield changed_s, comes
                    is_there = comes
            if math.isinf(self.period_s):
                return

    def _edges(self) -> list[tuple[float, bool]]:
        """Of one period; where one part ends as the next begins, that is none of either."""
        ends = {off for _, off in self.online_s}
        begins = {on for on, _ in self.online_s}
        edges = [
            edge
            for on, off in self.online_s
            for edge in ((on, True), (off, False))
            if edge[0] not in ends & begins
        ]
        if edges and edges[0][0] == 0 and edges[-1][0] == self.period_s < math.inf:
            return edges[1:-1]
        return edges

    def _number(self, at_s: float) -> int:
        """Of the period that a moment is in, from 0."""
        return 0 if math.isinf(self.period_s) else int((at_s - self.from_s) // self.period_s)

    def _begins_s(self, number: int) -> float:
        if math.isinf(self.period_s):
            return self.from_s
        return self.from_s + number * self.period_s


ALWAYS = Times(((0.0, math.inf),))


def times_of(traces: Sequence[Trace], fleet: Sequence[str], seed: int) -> dict[str, Times]:
    """When each worker of the fleet is there: a function of its arguments.

    Raises:
        SettingInvalid: a trace names a worker that the fleet does not have.
    """
    found = dict.fromkeys(fleet, ALWAYS)
    for trace in traces:
        for name in trace.workers or ():
            if name not in found:
                raise SettingInvalid(f"availability: {printable(name)}: not in the fleet")
            found[name] = _times(trace, name, seed)
    named = {name for trace in traces for name in trace.workers or ()}
    others = shuffled((name for name in fleet if name not in named), seed)
    start, taken = 0, 0.0
    for trace in traces:
        # Cut where the shares so far end, so that rounding loses nobody.
        taken += trace.share or 0.0
        end = min(len(others), round(taken * len(fleet)))
        for name in others[start:end]:
            found[name] = _times(trace, name, seed)
        start = max(start, end)
    return found


def _times(trace: Trace, worker_id: str, seed: int) -> Times:
    if trace.daily_ratio is not None:
        peak_s = 2 * 3600.0 if trace.peak_s is None else trace.peak_s
        spread_s = 3 * 3600.0 if trace.spread_s is None else trace.spread_s
        return daily(worker_id, seed, trace.daily_ratio, peak_s=peak_s, spread_s=spread_s)
    pairs = tuple((on_s, off_s) for on_s, off_s in trace.online_s or ())
    return Times(pairs, math.inf if trace.period_s is None else trace.period_s)


def daily(worker_id: str, seed: int, ratio: float, *, peak_s: float, spread_s: float) -> Times:
    """The same part of every day, at a time that chance gives to the worker.

    Args:
        ratio: of the day, in (0, 1).
        peak_s, spread_s: mean and standard deviation of the part's middle.
    """
    # The sum of twelve uniform numbers less six is as good as normal here.
    drawn = math.fsum(share_of(hashed(seed, f"{worker_id}/{n}")) for n in range(12)) - 6
    middle_s = peak_s + spread_s * drawn
    return Times(((0.0, ratio * DAY_S),), DAY_S, middle_s - ratio * DAY_S / 2)


class Presence:
    """Who is there, as time goes on.

    Args:
        times: of every worker of the fleet, in the fleet's order.
        at_s: where it begins.

    Attributes:
        workers: who is there now, in the fleet's order.
    """

    def __init__(self, times: Mapping[str, Times], at_s: float = 0.0) -> None:
        self._there = {name: one.is_there(at_s) for name, one in times.items()}
        self._to_come = {name: one.changes(at_s) for name, one in times.items()}
        self._changes: list[tuple[float, str, bool]] = []
        for name in times:
            self._await(name)
        self.workers = self._list()

    @property
    def next_s(self) -> float:
        """When somebody comes or goes next; inf for never."""
        return self._changes[0][0] if self._changes else math.inf

    def move_on(self, at_s: float) -> frozenset[str]:
        """Let time pass; return who has gone meanwhile, back or not."""
        gone = set()
        while self.next_s <= at_s:
            _, name, comes = heappop(self._changes)
            self._there[name] = comes
            if not comes:
                gone.add(name)
            self._await(name)
        self.workers = self._list()
        return frozenset(gone)

    def _list(self) -> tuple[str, ...]:
        return tuple(name for name, there in self._there.items() if there)

    def _await(self, name: str) -> None:
        for changed_s, comes in islice(self._to_come[name], 1):
            heappush(self._changes, (changed_s, name, comes))
