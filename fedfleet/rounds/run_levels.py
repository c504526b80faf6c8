"""What both drivers of a round ask of a run's levels."""

from __future__ import annotations

from typing import Protocol

from fedfleet.aggregation.coverage import ClassRows
from fedfleet.aggregation.slices import Slice
from fedfleet.rounds.levels import Width, Widths, assigned_level, lane_of_level
from fedfleet.rounds.measured_levels import MeasuredLevels
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.static_norm import queried_levels
from fedfleet.types import Schema


class Models(Protocol):
    """The model at every level (``training.submodels.SubModels``)."""

    def slice(self, level: str, round: int = 1, *, rolling: bool = False) -> Slice: ...

    def output(self, level: str) -> ClassRows: ...

    def schema(self, level: str) -> Schema: ...


class RunLevels:
    """The levels of one run, which has a table ``[levels]``.

    Args:
        seed: of what chance decides.

    Attributes:
        measured: where workers' levels are chosen by measurement.
        queried: as ``queried_levels``.
    """

    def __init__(self, recipe: Recipe, models: Models, seed: int) -> None:
        assert recipe.levels is not None
        self._config = recipe.levels
        self._models = models
        self._seed = seed
        self._workers = recipe.data.workers
        is_measured = recipe.levels.assignment == "measured"
        self.measured = MeasuredLevels(recipe, models) if is_measured else None
        self.queried = queried_levels(recipe, models.schema)
        # Looked for only where it matters: not every model has one layer that answers.
        names = self._config.names if recipe.training.mask_absent else ()
        self._rows = {level: models.output(level) for level in names}

    def widths(self, round: int) -> Widths:
        """The slices of a round, by lane."""
        rolling = self._config.submodel == "rolling"
        return {
            lane_of_level(level): Width(
                self._models.slice(level, round, rolling=rolling), self._rows.get(level)
            )
            for level in self._config.names
        }

    def lane_of(self, worker_id: str, round: int) -> str:
        """The lane of a worker's level in a round."""
        if self.measured is not None:
            self.measured.enter(round)
            return lane_of_level(self.measured.level(worker_id))
        level = assigned_level(
            self._config, worker_id, seed=self._seed, round=round, workers=self._workers
        )
        return lane_of_level(level)
