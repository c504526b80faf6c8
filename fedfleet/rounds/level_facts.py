"""What is known of a worker when its level is chosen, and how it is stored.

Legend: W = workers, F = numbers of a worker, K = numbers of a worker's level, L = levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedfleet.algorithms.base import Memory
from fedfleet.types import Array

_PREFIX = "levels."
_NAMES, _ROWS, _TABLES = (_PREFIX + key for key in ("names", "rows", "tables"))


@dataclass(frozen=True, slots=True)
class Speed:
    """How a worker trains at one level, as a probe measured it.

    Args:
        samples_per_s: training examples per second; 0 where it ran out of memory.
        memory_bytes: peak of the process; 0 where nobody measured.
    """

    samples_per_s: float
    memory_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelSize:
    """One level of a run.

    Args:
        rate: its width as a share of the run's model.
        down_bytes, up_bytes: of the slice and of an update, as they travel.
    """

    name: str
    rate: float
    down_bytes: float = 0.0
    up_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a worker says of itself; zero and empty mean that it was not measured.

    Args:
        speeds: by level, of this run's model.
        memory_bytes: of the device.
    """

    speeds: Mapping[str, Speed] = field(default_factory=dict)
    memory_bytes: float = 0.0
    down_bytes_per_s: float = 0.0
    up_bytes_per_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What a worker's part of a round took.

    Args:
        seconds: from the assignment to the update.
        samples: training examples behind the update.
        share: of its steps that it did, in (0, 1].
        is_late: no update came: ``seconds`` is how long it was waited for.
    """

    worker_id: str
    level: str
    seconds: float
    samples: float = math.nan
    share: float = 1.0
    is_late: bool = False


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of one worker. Levels are counted from the widest, 0.

    Args:
        told: the last that it said.
        samples: training examples behind its last update; NaN before the first.
        condition: logarithm of the measured over the predicted time, shared by its levels; NaN
            before the first round.
        level: of its last round; -1 before.
        widest: the widest level that it may get, after it ran out of memory.
        biases: of each level, as ``condition``; NaN for one that was not measured, or long ago.
        away: rounds that it trained at narrower levels since it left a level.
        lefts: how often it left a level for a narrower one.
    """

    told: Told = field(default_factory=Told)
    samples: float = math.nan
    condition: float = math.nan
    level: int = -1
    widest: int = 0
    biases: tuple[float, ...]
    away: tuple[float, ...]
    lefts: tuple[float, ...]

    @classmethod
    def nobody(cls, levels: int) -> Known:
        """What is known of a worker that never said or did anything."""
        return cls(biases=(math.nan,) * levels, away=(0.0,) * levels, lefts=(0.0,) * levels)


def known_to_memory(known: Mapping[str, Known], levels: Sequence[str]) -> Memory:
    """Named arrays for the store; empty where nothing is known.

    Args:
        known: by worker.
        levels: their names, the widest first.
    """
    if not known:
        return {}
    names = sorted(known)
    rows_WF = [_row(known[name]) for name in names]
    tables_WKL = [_table(known[name], levels) for name in names]
    return {
        _NAMES: np.frombuffer("\n".join(names).encode(), np.uint8),
        _ROWS: np.array(rows_WF, np.float64),
        _TABLES: np.array(tables_WKL, np.float64),
    }


def known_from_memory(memory: Mapping[str, Array], levels: Sequence[str]) -> dict[str, Known]:
    """What ``known_to_memory`` wrote for the same levels."""
    if _ROWS not in memory:
        return {}
    names = memory[_NAMES].tobytes().decode().split("\n")
    rows, tables = memory[_ROWS].tolist(), memory[_TABLES].tolist()
    return {
        name: _known(row, table, levels)
        for name, row, table in zip(names, rows, tables, strict=True)
    }


def without_levels(memory: Mapping[str, Array]) -> Memory:
    """The rest of a stored memory."""
    return {key: array for key, array in memory.items() if not key.startswith(_PREFIX)}


def _row(known: Known) -> list[float]:
    told = known.told
    links = (told.down_bytes_per_s, told.up_bytes_per_s)
    rest = (known.samples, known.condition, float(known.level), float(known.widest))
    return [told.memory_bytes, *links, *rest]


def _table(known: Known, levels: Sequence[str]) -> list[Sequence[float]]:
    """NaN stands for a speed that is not known."""
    speeds = [known.told.speeds.get(level, _NO_SPEED) for level in levels]
    return [
        [speed.samples_per_s for speed in speeds],
        [speed.memory_bytes for speed in speeds],
        known.biases,
        known.away,
        known.lefts,
    ]


def _known(row: Sequence[float], table: Sequence[Sequence[float]], levels: Sequence[str]) -> Known:
    memory_bytes, down, up, samples, condition, level, widest = row
    speeds, peaks, biases, away, lefts = table
    pairs = zip(levels, map(Speed, speeds, peaks), strict=True)
    return Known(
        told=Told(
            speeds={name: speed for name, speed in pairs if not math.isnan(speed.samples_per_s)},
            memory_bytes=memory_bytes,
            down_bytes_per_s=down,
            up_bytes_per_s=up,
        ),
        samples=samples,
        condition=condition,
        level=int(level),
        widest=int(widest),
        biases=tuple(biases),
        away=tuple(away),
        lefts=tuple(lefts),
    )


_NO_SPEED = Speed(math.nan, math.nan)
