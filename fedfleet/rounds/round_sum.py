"""What the coordinator's half of a round computes: updates in, next state out. Both drivers use it.

Lives from the first update of a round to its commit; holds one model's worth of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedfleet.aggregation.accumulator import Aggregate, UpdateAccumulator
from fedfleet.aggregation.coverage import Part, merge, without_absent_rows
from fedfleet.algorithms.base import Algorithm, Memory, Outcome, RoundResult, no_start
from fedfleet.algorithms.fedavg import MAX_CORRECTION
from fedfleet.algorithms.plan import MAIN
from fedfleet.algorithms.present_classes import classes_in_metrics
from fedfleet.errors import SchemaMismatch, UpdateInvalid, UpdateNotFinite
from fedfleet.rounds.levels import Widths
from fedfleet.rounds.recipe import Recipe
from fedfleet.types import ModelState, Update, UpdateHeader


class RoundSum:
    """Folds the updates of one round.

    Args:
        base: state that the round starts from.
        memory: the algorithm's coordinator memory.
        widths: of a run with levels, by lane.
    """

    def __init__(
        self,
        recipe: Recipe,
        algorithm: Algorithm,
        base: ModelState,
        memory: Memory,
        widths: Widths | None = None,
    ) -> None:
        self._widths = widths
        self._algorithm = algorithm
        self._base = base
        self._memory = memory
        self._workers = recipe.fleet or 0
        self._max_weight = float(algorithm.largest_weight or recipe.rounds.max_weight)
        self._max_correction = MAX_CORRECTION if algorithm.corrects_chances else 1.0
        self._policy = recipe.algorithm.statistics
        self._cohort = recipe.rounds.cohort
        self._lanes: dict[str, str] = {}
        self._accumulators = {MAIN: self._new_accumulator(MAIN)}
        self._outcome: Outcome | None = None

    def _new_accumulator(self, lane: str) -> UpdateAccumulator:
        return UpdateAccumulator(
            self._widths[lane].slice.part if self._widths else self._base.schema,
            policy=self._policy,
            max_updates=self._cohort,
            max_weight=self._max_weight * self._max_correction,
            extra=self._algorithm.sections,
        )

    @property
    def waits(self) -> bool:
        """Whether updates can be folded only once all of the round are there."""
        return self._algorithm.weighs_together

    def check(self, update: Update, base_digest: str, lane: str = MAIN) -> None:
        """Check an update before it is journalled.

        Args:
            base_digest: SHA-256 of what the worker was told to start from.
            lane: of its assignment.

        Raises:
            SchemaMismatch, UpdateInvalid, UpdateNotFinite, UpdateOutOfRange: refuse it.
        """
        header = update.header
        if header.base_digest != base_digest:
            raise SchemaMismatch(
                f"the update starts from version {header.base_digest[:12]}, "
                f"the assignment from {base_digest[:12]}"
            )
        self._algorithm.check_header(header)
        if not self.waits:
            weight = self._algorithm.weight(header)
            if not 0 < weight <= self._max_weight:
                raise UpdateInvalid(
                    f"weight {weight:g}: must be above 0 and at most rounds.max_weight = "
                    f"{self._max_weight:g}"
                )
        classes_in_metrics(header.metrics)
        self._accumulator(lane if self._widths else MAIN).check(update)

    def _accumulator(self, lane: str) -> UpdateAccumulator:
        """Of a lane; another thread may ask for the same at the same time."""
        found = self._accumulators.get(lane)
        return found or self._accumulators.setdefault(lane, self._new_accumulator(lane))

    def weights(self, headers: Sequence[UpdateHeader]) -> list[float]:
        """How much each update of a round that waits counts, scaled to what the sum resolves best.

        Args:
            headers: of all updates of the round, ordered by worker.
        """
        weights = self._algorithm.weights(headers, self._memory)
        scale = self._max_weight / max(weights)
        return [weight * scale for weight in weights]

    def fold(
        self,
        update: Update,
        weight: float | None = None,
        *,
        lane: str = MAIN,
        correction: float = 1.0,
        staleness: int = 0,
    ) -> None:
        """Add an update that passed ``check``; the order does not matter.

        Args:
            weight: from ``weights``, for a round that waits.
            lane: of its assignment.
            correction: what makes up for its worker's chance to be drawn, for an algorithm that
                asks for it.
            staleness: versions that were made while its worker trained.
        """
        if weight is None:
            weight = self._algorithm.weight(update.header) * self._algorithm.freshness(staleness)
            if self._algorithm.corrects_chances:
                weight *= correction
        if lane != MAIN and not self._widths:
            self._lanes[update.header.worker_id] = lane
        classes = None
        rows = self._widths[lane].rows if self._widths else None
        if rows is not None:
            classes = classes_in_metrics(update.header.metrics)
        if rows is not None and classes is not None:
            update = without_absent_rows(update, rows, classes)
        self._accumulator(lane).add(update, weight, classes)
        self._outcome = None

    def _aggregates(self) -> dict[str, Aggregate]:
        """By lane, in order of their names, not of the updates' arrival."""
        there = self._accumulators.copy()  # a check may add one meanwhile
        added = [(lane, one) for lane, one in sorted(there.items()) if one.updates]
        if not self._widths:
            return {lane: one.result() for lane, one in added}
        parts = []
        for lane, one in added:
            width = self._widths[lane]
            parts.append(Part(one.totals(), width.slice, width.rows))
        return {MAIN: merge(parts, self._base, self._policy)} if parts else {}

    def outcome(
        self,
        headers: Sequence[UpdateHeader],
        round: int,
        start_of: Callable[[int], ModelState] = no_start,
    ) -> Outcome:
        """Return what the round leads to; computed once, for a version that is measured first.

        Args:
            round: counted from 1.
            headers: of the updates that were folded, ordered by worker.
            start_of: the version that an earlier round started from, where a header names it.

        Raises:
            UpdateNotFinite: the step left the finite numbers; there is no such version.
        """
        if self._outcome is not None:
            return self._outcome
        result = RoundResult(
            self._base,
            self._aggregates(),
            headers,
            self._memory,
            self._workers,
            self._lanes,
            round,
            start_of,
        )
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            outcome = self._algorithm.step(result)
        for state in (outcome.state, outcome.served or outcome.state):
            if not (np.isfinite(state.trainable).all() and np.isfinite(state.statistics).all()):
                raise UpdateNotFinite(
                    "the aggregate leads to a version with NaN or infinity; lower the algorithm's "
                    "learning rate"
                )
        self._outcome = outcome
        return outcome
