"""The levels of a run with ``assignment = "measured"``: what both drivers do with a ``LevelBook``.

Levels are chosen when a cohort is drawn and journalled with it, as lanes. Here is what the choice
is made of: the book as of the last commit, and what has come in since.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from fedfleet.algorithms.base import Memory
from fedfleet.codecs.chain import Chain
from fedfleet.rounds.actions import Work
from fedfleet.rounds.card import card_of
from fedfleet.rounds.level_choice import LevelBook
from fedfleet.rounds.level_facts import LevelSize, Taken, Told
from fedfleet.rounds.levels import level_of_lane
from fedfleet.rounds.machine import Slot, Status
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.selection import loss_asked
from fedfleet.training.level_probe import ProbeTask
from fedfleet.types import Array, Kind, Schema, UpdateHeader
from fedfleet.wire.spare import spare_small

# Of the round's deadline, the most that a worker's part should take: else one that is never there
# in time would be thought to meet the target.
DEADLINE_SHARE = 0.8
# Metric of an update that was cut short: the share of its steps that were done; of training.local,
# which needs torch.
PARTIAL = "worker.partial"


class Schemas(Protocol):
    """The model at every level (``training.submodels.SubModels``)."""

    def schema(self, level: str) -> Schema: ...


class MeasuredLevels:
    """Chooses levels, and learns from what rounds took.

    A worker keeps the level that it trained for the evaluations of the round, so that it need not
    download another slice; ``look`` chooses anew, before a draw.

    Attributes:
        digest: names the figures of workers' probes that are of this run.
        book: what is known now.
    """

    def __init__(self, recipe: Recipe, models: Schemas) -> None:
        levels = recipe.levels
        assert levels is not None
        assert levels.target_s is not None, "the recipe was checked for it"
        self.digest = ProbeTask(
            card=card_of(recipe),
            training=recipe.training,
            rates=levels.rates,
            scaler=levels.scaler,
        ).digest
        self._fixed = levels.workers or {}
        self.book = LevelBook(
            sizes=[
                _size(name, rate, models.schema(name), recipe)
                for name, rate in zip(levels.names, levels.rates, strict=True)
            ],
            target_s=min(levels.target_s, DEADLINE_SHARE * recipe.rounds.deadline_s),
            epochs=recipe.training.epochs,
        )
        self._counts_all = loss_asked(recipe.rounds) != "sample"
        self._round = 0
        self._chosen: dict[str, str] = {}
        self._trained: dict[str, str] = {}
        self._asked: set[str] = set()
        self._exhausted: dict[str, str] = {}
        self._late_s: dict[str, tuple[str, float]] = {}
        self._next = self.book

    def enter(self, round: int) -> None:
        """Forget what was chosen for an earlier round."""
        if round != self._round:
            self._round = round
            self._chosen.clear()

    def keep(self, trained: Mapping[str, str]) -> None:
        """Leave workers the levels that they trained until the next round begins.

        Args:
            trained: levels by worker, of the round that was committed.
        """
        self._chosen = dict(trained)

    def level(self, worker_id: str) -> str:
        """The worker's level until the next ``look`` at it, or round."""
        if worker_id in self._fixed:
            return self._fixed[worker_id]
        if worker_id not in self._chosen:
            self._chosen[worker_id] = self.book.choose(worker_id)
        return self._chosen[worker_id]

    def look(self, told: Mapping[str, Told]) -> None:
        """Take what workers say of themselves, and choose their levels anew.

        Args:
            told: by worker, of those of whom a cohort is drawn.
        """
        for worker_id, one in told.items():
            self.book = self.book.told(worker_id, one)
            self._chosen.pop(worker_id, None)

    def to_probe(self, workers: Iterable[str]) -> tuple[str, ...]:
        """Who of a cohort is asked to measure itself before the cohort is drawn; each only once.

        A worker measures itself before it answers any assignment, so the one that asks for its
        loss does, and its answer counts the examples.
        """
        unknown = {w for w in workers if w not in self._fixed and not self.book.is_measured(w)}
        asked = tuple(sorted(unknown - self._asked))
        self._asked.update(asked)
        return asked

    def counted(self, worker_id: str, samples: int) -> None:
        """Take how many examples a worker was asked for its loss on: all that it trains on.

        But in a run whose selection asks for the loss on a batch of them, which says nothing.
        """
        if samples > 0 and self._counts_all:
            self.book = self.book.counted(worker_id, float(samples))

    def exhausted(self, worker_id: str, level: str) -> None:
        """Take note that a worker ran out of memory: the next draw gives it a narrower level."""
        # Noted apart too: the book that a commit under way ends with does not know of it.
        before = self._exhausted.get(worker_id, level)
        self._exhausted[worker_id] = max(before, level)
        self.book = self.book.exhausted(worker_id, level)
        self._chosen.pop(worker_id, None)

    def late(self, late_s: Mapping[str, tuple[str, float]]) -> None:
        """Take note of whom a round closes without.

        Args:
            late_s: by worker, its level and how long its update was waited for.
        """
        self._late_s = dict(late_s)

    def after(self, headers: Collection[UpdateHeader], durations_s: Mapping[str, float]) -> Memory:
        """What a round is committed with; ``advance`` goes on with it.

        Args:
            headers: of the updates that count.
            durations_s: by worker, from the assignment to its update.
        """
        self._trained = {header.worker_id: header.level for header in headers}
        taken = [
            Taken(
                worker_id=header.worker_id,
                level=header.level,
                seconds=durations_s.get(header.worker_id, math.nan),
                samples=float(header.weight),
                share=header.metrics.get(PARTIAL, 1.0),
            )
            for header in headers
        ]
        taken += [
            Taken(worker_id=worker_id, level=level, seconds=seconds, is_late=True)
            for worker_id, (level, seconds) in sorted(self._late_s.items())
        ]
        self._next = self.book.after(taken)
        return self._next.to_memory()

    def advance(self) -> None:
        """The round is committed."""
        book = self._next
        for worker_id, level in self._exhausted.items():
            book = book.exhausted(worker_id, level)
        self.book = self._next = book
        self._late_s = {}
        self.keep(self._trained)

    def load(self, memory: Mapping[str, Array]) -> None:
        """Take up a book from the store."""
        self.book = self._next = self.book.from_memory(memory)


def waited_in_vain(slots: Iterable[Slot]) -> dict[str, tuple[str, float]]:
    """Of whom a round closes without: the level, and how long its update was waited for.

    Args:
        slots: of the round, all attempts.
    """
    trained = [slot for slot in slots if slot.work is Work.TRAIN]
    done = {slot.worker_id for slot in trained if slot.status is Status.DONE}
    return {
        slot.worker_id: (level_of_lane(slot.lane), max(0.0, slot.closed_s - slot.opened_s))
        for slot in trained
        if slot.status is Status.EXPIRED and slot.closed_s and slot.worker_id not in done
    }


def _size(name: str, rate: float, schema: Schema, recipe: Recipe) -> LevelSize:
    wire = recipe.wire
    return LevelSize(
        name=name,
        rate=rate,
        down_bytes=_bytes(spare_small(wire.downlink_chain, schema), schema),
        up_bytes=_bytes(spare_small(wire.uplink_chain, schema), schema),
    )


def _bytes(chain: Chain, schema: Schema) -> float:
    """What a model's values take at most on their way."""
    plain = sum(
        schema.elements(kind) * kind.dtype.itemsize for kind in Kind if kind is not Kind.TRAINABLE
    )
    return float(chain.max_bytes(schema.elements(Kind.TRAINABLE)) + plain)
