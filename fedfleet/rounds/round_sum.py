"""What the coordinator's half of a round computes: updates in, next state out. Both drivers use it.

Lives from the first update of a round to its commit; holds one model's worth of sums.
"""

from __future__ import annotations

import numpy as np

from fedfleet.aggregation.accumulator import UpdateAccumulator
from fedfleet.algorithms.base import Algorithm, Memory
from fedfleet.errors import SchemaMismatch, UpdateInvalid, UpdateNotFinite
from fedfleet.rounds.recipe import Recipe
from fedfleet.types import ModelState, Update


class RoundSum:
    """Folds the updates of one round.

    Args:
        base: state of the version that the round starts from.
        base_digest: SHA-256 of that version; an update of another base is refused.
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
        self._max_weight = recipe.rounds.max_weight
        self._accumulator = UpdateAccumulator(
            base.schema,
            policy=recipe.algorithm.statistics,
            max_updates=recipe.rounds.cohort,
            max_weight=recipe.rounds.max_weight,
        )

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
        weight = self._algorithm.weight(header)
        if not 0 < weight <= self._max_weight:
            raise UpdateInvalid(
                f"weight {weight:g}: must be above 0 and at most rounds.max_weight = "
                f"{self._max_weight}"
            )
        self._accumulator.check(update)

    def fold(self, update: Update) -> None:
        """Add an update that passed ``check``; the order does not matter."""
        self._accumulator.add(update, self._algorithm.weight(update.header))

    def next_state(self) -> tuple[ModelState, Memory]:
        """Return the next version's state and the memory to keep.

        Raises:
            UpdateNotFinite: the step left the finite numbers; there is no such version.
        """
        aggregate = self._accumulator.result()
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            state, memory = self._algorithm.step(self._base, aggregate, self._memory)
        if not (np.isfinite(state.trainable).all() and np.isfinite(state.statistics).all()):
            raise UpdateNotFinite(
                "the aggregate leads to a version with NaN or infinity; lower the algorithm's "
                "learning rate"
            )
        return state, memory
