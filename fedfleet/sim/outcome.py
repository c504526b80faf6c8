"""What a simulation leaves: its rounds and its last version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedfleet.types import Evaluation, FloatVector, ModelState


@dataclass(frozen=True, kw_only=True)
class SimulatedRound:
    """What one round came to.

    Args:
        weight: training samples behind the updates.
        metrics: sample-weighted mean of the workers' training metrics.
        evaluation: on the test split, where the recipe asks for it.
        bytes_up: payload bytes of the updates.
        bytes_down: payload bytes that the workers downloaded since the round before.
        virtual_s: seconds since the run began, by device profiles, at which the version was there;
            None without profiles.
        worker_evaluations: by worker id, filled when the round closes.
        levels: of the workers that trained another width than the whole.
        staleness: of the update of each of ``workers``: versions that were made while it trained.
    """

    round: int
    workers: tuple[str, ...]
    weight: float
    metrics: Mapping[str, float]
    evaluation: Evaluation | None
    bytes_up: int
    bytes_down: int
    virtual_s: float | None = None
    worker_evaluations: dict[str, Evaluation] = field(default_factory=dict)
    levels: Mapping[str, str] = field(default_factory=dict)
    staleness: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A finished run. ``outcome`` is completed, failed or stopped.

    Args:
        levels: the statistics of the state's narrower slices, where they were measured.
    """

    outcome: str
    code: str
    reason: str
    state: ModelState
    rounds: tuple[SimulatedRound, ...]
    classes: tuple[str, ...]
    levels: Mapping[str, FloatVector] = field(default_factory=dict)
