"""The state that an assignment of a chain or of a lane starts from. Both drivers use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedfleet.algorithms.base import DELTA, Algorithm, Memory
from fedfleet.algorithms.plan import MAIN
from fedfleet.rounds.levels import Widths
from fedfleet.types import Kind, ModelState, Update


def relayed(
    algorithm: Algorithm,
    base: ModelState,
    memory: Memory,
    lane: str,
    earlier: Iterable[Update],
    widths: Widths | None = None,
) -> ModelState:
    """The model of a lane, with the work of those before in the chain done.

    The deltas are added in float32 and in order, so every driver gets the same bits. Statistics
    and counters are those of the last worker.

    Args:
        base: what the round starts from, on the run's own lane.
        memory: the coordinator half's.
        earlier: updates of the workers before, in the order of the chain.
        widths: of a run with levels, whose lanes are slices of the base.
    """
    if widths is not None:
        return widths[lane].slice.cut(base)
    state = base if lane == MAIN else algorithm.lane_state(lane, base, memory)
    for update in earlier:
        found = {section.name: section.values for section in update.sections}
        state = replace(
            state,
            trainable=state.trainable + found[DELTA],
            statistics=found[Kind.STATISTIC.value],
            counters=found[Kind.COUNTER.value],
        )
    return state
