"""Which width a worker can carry at the run's pace: from a probe first, then from its rounds.

The prediction for a worker at a level is the time to download the level's slice, to train on the
examples that it reported last, and to upload. What rounds really took corrects it by two factors
of the worker: its condition, which every level shares (a hot or busy device is slow at all of
them), and a bias of each level. A level that was too slow is not tried again for a while, and for
twice as long each time, as radio senders do with rates that failed (AARF, Lacage et al. 2004,
IEEE 802.11 Rate Adaptation, section 4).

A value, as the history is: both drivers advance it with each round's commit and store it beside the
algorithm's memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from fedfleet.algorithms.base import Memory
from fedfleet.rounds.level_facts import (
    Known,
    LevelSize,
    Speed,
    Taken,
    Told,
    known_from_memory,
    known_to_memory,
)
from fedfleet.types import Array

# A level fits where its peak leaves room for the system and for what a worker holds beside it.
MEMORY_SHARE = 0.8
# A level is left once it takes so much longer than the target, and a wider one is taken once it is
# thought to take so much less: within that, nothing moves.
MARGIN = 0.15
# How much of a surprise goes to the worker's condition, and how much to the level's bias.
_CONDITION, _BIAS = 0.4, 0.1
# Rounds until a level that was too slow once may be tried again; doubled each time.
_PATIENCE = 16
# Of a logarithm, the most that exp can take.
_LARGEST = 700.0


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelBook:
    """What is known of every worker of a run, and the level that follows from it.

    Args:
        sizes: the run's levels, the widest first.
        target_s: how long a worker's part of a round should take.
        epochs: passes over the examples in each round.
        usual_samples: examples of a worker, as long as none has reported; NaN if nobody knows.
        known: by worker.
    """

    sizes: Sequence[LevelSize]
    target_s: float
    epochs: float = 1.0
    usual_samples: float = math.nan
    known: Mapping[str, Known] = field(default_factory=dict)

    # What drivers ask

    def choose(self, worker_id: str) -> str:
        """The widest level that fits the worker's memory and meets the target.

        The narrowest where none does, or where nothing is known.
        """
        known = self._of(worker_id)
        for index in range(known.widest, len(self.sizes)):
            seconds = self._seconds(known, index)
            if self._fits(known, index) and seconds <= self.target_s * _slack(known, index):
                return self.sizes[index].name
        return self.sizes[-1].name

    def seconds(self, worker_id: str, level: str) -> float:
        """How long a round at a level is thought to take; infinite where nobody can say."""
        return self._seconds(self._of(worker_id), self._index(level))

    def is_measured(self, worker_id: str) -> bool:
        """Whether the worker's level rests on figures of its own: of a probe, or of a round."""
        known = self._of(worker_id)
        has_probe = bool(known.told.speeds) and not math.isnan(known.samples)
        return has_probe or not math.isnan(known.condition)

    # What comes in

    def told(self, worker_id: str, told: Told) -> LevelBook:
        """The book once a worker has said what it measured; a link it leaves out is kept."""
        known = self._of(worker_id)
        before = known.told
        merged = Told(
            speeds=told.speeds or before.speeds,
            memory_bytes=told.memory_bytes or before.memory_bytes,
            down_bytes_per_s=told.down_bytes_per_s or before.down_bytes_per_s,
            up_bytes_per_s=told.up_bytes_per_s or before.up_bytes_per_s,
        )
        if merged == before:
            return self
        if bool(merged.speeds) != bool(before.speeds):
            # What rounds were compared with was a prediction of another kind.
            known = replace(self._nobody(), samples=known.samples, widest=known.widest)
        return self._with(worker_id, replace(known, told=merged))

    def counted(self, worker_id: str, samples: float) -> LevelBook:
        """The book once a worker has counted the examples that it trains on."""
        return self._with(worker_id, replace(self._of(worker_id), samples=samples))

    def exhausted(self, worker_id: str, level: str) -> LevelBook:
        """The book once a worker ran out of memory at a level: none as wide in this run again."""
        known = self._of(worker_id)
        widest = min(self._index(level) + 1, len(self.sizes) - 1)
        return self._with(worker_id, replace(known, widest=max(known.widest, widest)))

    def after(self, taken: Iterable[Taken]) -> LevelBook:
        """The book once a round is committed."""
        known = dict(self.known)
        for one in taken:
            before = known.get(one.worker_id) or self._nobody()
            known[one.worker_id] = self._advanced(before, one)
        return replace(self, known=known)

    # Inside

    def _of(self, worker_id: str) -> Known:
        return self.known.get(worker_id) or self._nobody()

    def _nobody(self) -> Known:
        return Known.nobody(len(self.sizes))

    def _with(self, worker_id: str, known: Known) -> LevelBook:
        return replace(self, known={**self.known, worker_id: known})

    def _index(self, level: str) -> int:
        return self._names.index(level)

    def _advanced(self, known: Known, taken: Taken) -> Known:
        index = self._index(taken.level)
        if not math.isnan(taken.samples):
            known = replace(known, samples=taken.samples)
        seconds = self._whole_seconds(known, index, taken)
        if taken.is_late and seconds <= self._seconds(known, index) < math.inf:
            return _at(known, index)  # it was thought to take longer anyway
        predicted = self._predicted(known, index)
        if not (0 < seconds < math.inf and 0 < predicted < math.inf):
            return _at(known, index)
        found = math.log(seconds) - math.log(predicted)
        return _at(_surprised(known, index, found), index)

    def _whole_seconds(self, known: Known, index: int, taken: Taken) -> float:
        """What the round would have taken with all of its steps."""
        if not 0 < taken.share < 1:
            return taken.seconds
        moving = min(self._transfer_s(known, index), taken.seconds)
        return moving + (taken.seconds - moving) / taken.share

    def _seconds(self, known: Known, index: int) -> float:
        predicted = self._predicted(known, index)
        if math.isnan(known.condition):
            # Without a probe, what is predicted has no unit yet.
            return predicted if known.told.speeds else math.inf
        slower = known.condition + _nearest(known.biases, index)
        return predicted * math.exp(max(-_LARGEST, min(_LARGEST, slower)))

    def _predicted(self, known: Known, index: int) -> float:
        """Seconds by the probe; in a unit of its own where there was none."""
        if not known.told.speeds:
            # A convolution's work grows with the square of its width.
            return self.sizes[index].rate * self.sizes[index].rate
        samples_per_s = self._samples_per_s(known.told.speeds, index)
        if samples_per_s <= 0:
            return math.inf
        trained = self._samples(known) * self.epochs
        predicted = self._transfer_s(known, index) + trained / samples_per_s
        return math.inf if math.isnan(predicted) else predicted

    def _samples(self, known: Known) -> float:
        if not math.isnan(known.samples):
            return known.samples
        return self._mean_samples

    @cached_property
    def _mean_samples(self) -> float:
        """Of those that have reported."""
        samples = [one.samples for one in self.known.values() if not math.isnan(one.samples)]
        return math.fsum(samples) / len(samples) if samples else self.usual_samples

    def _transfer_s(self, known: Known, index: int) -> float:
        told, size = known.told, self.sizes[index]
        down = size.down_bytes / told.down_bytes_per_s if told.down_bytes_per_s else 0.0
        up = size.up_bytes / told.up_bytes_per_s if told.up_bytes_per_s else 0.0
        return down + up

    def _samples_per_s(self, speeds: Mapping[str, Speed], index: int) -> float:
        """The probe's figure; 0 for what ran out of memory.

        A level that the probe had no time for is thought to be slower than the widest that it
        reached by the square of their rates; a narrower one than it tried, no faster.
        """
        for place in (*range(index, len(self.sizes)), *range(index, -1, -1)):
            found = speeds.get(self.sizes[place].name)
            if found is not None and (found.samples_per_s > 0 or place >= index):
                wider: float = max(1.0, self.sizes[index].rate / self.sizes[place].rate)
                return found.samples_per_s / (wider * wider)
        return 0.0

    def _fits(self, known: Known, index: int) -> bool:
        told = known.told
        found = told.speeds.get(self.sizes[index].name)
        if found is None or not told.memory_bytes:
            return True
        return found.memory_bytes <= MEMORY_SHARE * told.memory_bytes

    # The store

    def to_memory(self) -> Memory:
        """Named arrays for the store; empty as long as nothing is known."""
        return known_to_memory(self.known, self._names)

    def from_memory(self, memory: Mapping[str, Array]) -> LevelBook:
        """This book with what ``to_memory`` of a book with the same levels wrote."""
        return replace(self, known=known_from_memory(memory, self._names))

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(size.name for size in self.sizes)


def _slack(known: Known, index: int) -> float:
    """How much of the target a level may take: the one in use more than a wider one."""
    if known.level < 0 or index > known.level:
        return 1.0
    return 1 + MARGIN if index == known.level else 1 - MARGIN


def _nearest(biases: Sequence[float], index: int) -> float:
    """The bias of the nearest level that was measured; of two, the narrower."""
    found = [place for place, bias in enumerate(biases) if not math.isnan(bias)]
    return biases[min(found, key=lambda place: (abs(place - index), -place))] if found else 0.0


def _surprised(known: Known, index: int, found: float) -> Known:
    """Learn from a round.

    Args:
        found: logarithm of its measured over its predicted time.
    """
    if math.isnan(known.condition):
        return replace(known, condition=found, biases=_put(known.biases, index, 0.0))
    bias = known.biases[index]
    if math.isnan(bias):
        return replace(known, biases=_put(known.biases, index, found - known.condition))
    surprise = found - known.condition - bias
    biases = _put(known.biases, index, bias + _BIAS * surprise)
    return replace(known, condition=known.condition + _CONDITION * surprise, biases=biases)


def _at(known: Known, index: int) -> Known:
    """Note that a round was trained at a level; forget wider ones whose time has come."""
    away, lefts, biases = list(known.away), list(known.lefts), list(known.biases)
    if 0 <= known.level < index:
        lefts[known.level] += 1
    for wider in range(index):
        away[wider] = 1.0 if wider == known.level else away[wider] + 1
        if away[wider] >= _PATIENCE * 2.0 ** max(0.0, lefts[wider] - 1):
            away[wider], biases[wider] = 0.0, math.nan
    return replace(known, level=index, away=tuple(away), lefts=tuple(lefts), biases=tuple(biases))


def _put(values: Sequence[float], index: int, value: float) -> tuple[float, ...]:
    return (*values[:index], value, *values[index + 1 :])
