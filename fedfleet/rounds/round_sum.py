"""What the coordinator's half of a round computes: updates in, next state out. Both drivers use it.

Lives from the first update of a round to its commit; holds one model's worth of sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedfleet.aggregation.accumulator import UpdateAccumulator
from fedfleet.algorithms.base import Algorithm, Memory, Outcome, RoundResult
from fedfleet.errors import SchemaMismatch, UpdateInvalid, UpdateNotFinite
from fedfleet.rounds.recipe import Recipe
from fedfleet.types import ModelState, Update, UpdateHeader


class RoundSum:
    """Folds the updates of one round.

    Args:
        base: state that the round starts from.
        base_digest: SHA-256 of what the workers were told to start from; an update of another base
            is refused.
        memory: the algorithm's coordinator memory.
    """

    def __init__(
        self,
        recipe: Recipe,
        algorithm: Algorithm,
        base: ModelState,
        base_digest: str,
        memory: Memory,
    ) -> None:
        self._algorithm = algorithm
        self._base = base
        self._base_digest = base_digest
        self._memory = memory
        self._workers = recipe.fleet or 0
        self._max_weight = float(algorithm.largest_weight or recipe.rounds.max_weight)
        self._accumulator = UpdateAccumulator(
            base.schema,
            policy=recipe.algorithm.statistics,
            max_updates=recipe.rounds.cohort,
            max_weight=self._max_weight,
            extra=algorithm.sections,
        )

    @property
    def waits(self) -> bool:
        """Whether updates can be folded only once all of the round are there."""
        return self._algorithm.weighs_together

    def check(self, update: Update) -> None:
        """Check an update before it is journalled.

        Raises:
            SchemaMismatch, UpdateInvalid, UpdateNotFinite, UpdateOutOfRange: refuse it.
        """
        header = update.header
        if header.base_digest != self._base_digest:
            raise SchemaMismatch(
                f"the update starts from version {header.base_digest[:12]}, "
                f"the round from {self._base_digest[:12]}"
            )
        self._algorithm.check_header(header)
        if not self.waits:
            weight = self._algorithm.weight(header)
            if not 0 < weight <= self._max_weight:
                raise UpdateInvalid(
                    f"weight {weight:g}: must be above 0 and at most rounds.max_weight = "
                    f"{self._max_weight:g}"
                )
        self._accumulator.check(update)

    def weights(self, headers: Sequence[UpdateHeader]) -> list[float]:
        """How much each update of a round that waits counts, scaled to what the sum resolves best.

        Args:
            headers: of all updates of the round, ordered by worker.
        """
        weights = self._algorithm.weights(headers, self._memory)
        scale = self._max_weight / max(weights)
        return [weight * scale for weight in weights]

    def fold(self, update: Update, weight: float | None = None) -> None:
        """Add an update that passed ``check``; the order does not matter.

        Args:
            weight: from ``weights``, for a round that waits.
        """
        if weight is None:
            weight = self._algorithm.weight(update.header)
        self._accumulator.add(update, weight)

    def outcome(self, headers: Sequence[UpdateHeader]) -> Outcome:
        """Return what the round leads to.

        Args:
            headers: of the updates that were folded, ordered by worker.

        Raises:
            UpdateNotFinite: the step left the finite numbers; there is no such version.
        """
        result = RoundResult(
            self._base, self._accumulator.result(), headers, self._memory, self._workers
        )
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            outcome = self._algorithm.step(result)
        for state in (outcome.state, outcome.served or outcome.state):
            if not (np.isfinite(state.trainable).all() and np.isfinite(state.statistics).all()):
                raise UpdateNotFinite(
                    "the aggregate leads to a version with NaN or infinity; lower the algorithm's "
                    "learning rate"
                )
        return outcome
