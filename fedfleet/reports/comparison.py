"""The table that compares runs: what each came to, and what it spent on the way to one accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedfleet.reports.groups import Group, Spread, spread_at, spread_of
from fedfleet.reports.measures import Measures, Point, quality_of

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Table:
    """Texts. The first column names the run; ``wanted`` columns are about the target."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Column:
    title: str
    text: Callable[[Group], str]


def compare(groups: Sequence[Group], target: float) -> Table:
    """One row per group, with mean and standard deviation where it has several seeds.

    Args:
        target: the accuracy on the way to which rounds, bytes and seconds are counted.
    """
    has_virtual = any(
        record.rounds[-1:] and record.rounds[-1].virtual_s is not None
        for group in groups
        for record in group.records
    )
    quality = quality_of(record for group in groups for record in group.records)
    columns = [
        _Column("run", lambda group: group.label),
        _Column("outcome", outcome_of),
        _measured("rounds", lambda m: m.rounds, _whole),
        _measured(f"final {quality}", lambda m: m.final_accuracy, _percent),
        _measured(f"best {quality}", lambda m: m.best_accuracy, _percent),
        _measured("in round", lambda m: m.best_round, _whole),
        _measured("final loss", lambda m: m.final_loss, _number),
        _measured("moved", lambda m: m.bytes_up + m.bytes_down, size_text),
        _measured("time", lambda m: m.elapsed_s, duration_text),
        *([_measured("virtual time", lambda m: m.virtual_s, duration_text)] if has_virtual else []),
    ]
    if target > 0:
        to = f"to {round(100 * target, 6):g} %"
        columns += [
            _reached(f"rounds {to}", target, lambda point: point.round, _whole),
            _reached(f"moved {to}", target, lambda point: point.moved_bytes, size_text),
            _reached(f"time {to}", target, lambda point: point.elapsed_s, duration_text),
        ]
        if has_virtual:
            columns.append(
                _reached(f"virtual {to}", target, lambda point: point.virtual_s, duration_text)
            )
    return Table(
        tuple(column.title for column in columns),
        tuple(tuple(column.text(group) for column in columns) for group in groups),
    )


def outcome_of(group: Group) -> str:
    """How the group's runs ended, and how many they are where they are several."""
    outcomes = [record.facts.outcome for record in group.records]
    counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    if len(outcomes) == 1:
        return outcomes[0]
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def _measured(
    title: str, value: Callable[[Measures], float | None], text: Callable[[float], str]
) -> _Column:
    return _Column(title, lambda group: _spread(spread_of(group, value), text, "-"))


def _reached(
    title: str, target: float, value: Callable[[Point], float | None], text: Callable[[float], str]
) -> _Column:
    return _Column(
        title, lambda group: _spread(spread_at(group, target, value), text, "not reached")
    )


def _spread(spread: Spread, text: Callable[[float], str], nothing: str) -> str:
    if spread.mean is None:
        return nothing
    shown = text(spread.mean)
    if spread.deviation:  # and not 0, where the seed makes no difference
        number, _, unit = shown.rpartition(" ")
        deviation = text(spread.deviation)
        is_same = number and deviation.endswith(f" {unit}")
        shown = f"{number if is_same else shown} ± {deviation}"
    return shown if spread.count == spread.total else f"{shown} ({spread.count} of {spread.total})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _whole(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def size_text(size_bytes: float) -> str:
    """A number of bytes in the unit that fits."""
    value, unit = float(size_bytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"


def duration_text(seconds: float) -> str:
    """A duration in the units that fit."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
