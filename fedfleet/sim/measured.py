"""Levels by measurement in a simulation: a device says of itself what its profile does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedfleet.algorithms.plan import MAIN
from fedfleet.errors import OutOfMemory
from fedfleet.rounds import actions as act
from fedfleet.rounds.levels import level_of_lane
from fedfleet.rounds.machine import Slot
from fedfleet.rounds.measured_levels import MeasuredLevels, waited_in_vain
from fedfleet.rounds.run_levels import RunLevels
from fedfleet.sim.devices import Pace


class SimulatedProbes:
    """Brings a run's levels what workers say and do; as the coordinator's ``LevelDesk``.

    Attributes:
        pace: of the devices; without one nobody measures anything.
    """

    def __init__(self, levels: RunLevels | None) -> None:
        self._levels = levels
        self._measured: MeasuredLevels | None = levels.measured if levels else None
        self.pace: Pace | None = None

    def lane(self, worker_id: str, round: int) -> str:
        """The lane that a worker is drawn for."""
        if self._levels is None:
            return MAIN
        if self._measured is not None and self.pace is not None:
            names = [size.name for size in self._measured.book.sizes]
            self._measured.look({worker_id: self.pace.told(worker_id, names)})
        return self._levels.lane_of(worker_id, round)

    def to_probe(self, action: act.SelectCohort, drawn: Sequence[str]) -> tuple[str, ...]:
        """Who of those drawn has to measure itself before the cohort stands."""
        if self._measured is None or action.losses is not None:
            return ()
        return self._measured.to_probe(drawn)

    def counted(self, worker_id: str, samples: int) -> None:
        """Take the number of examples that a worker was asked for its loss on."""
        if self._measured is not None:
            self._measured.counted(worker_id, samples)

    def failed(self, slot: Slot, code: str) -> None:
        """Take note of an assignment that failed."""
        is_training = slot.work is act.Work.TRAIN
        if self._measured is not None and is_training and code == OutOfMemory.code:
            self._measured.exhausted(slot.worker_id, level_of_lane(slot.lane))

    def closing(self, slots: Iterable[Slot]) -> None:
        """Take note of those whose updates did not come."""
        if self._measured is not None:
            self._measured.late(waited_in_vain(slots))
