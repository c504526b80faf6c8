"""What a run's driver does about its levels; most of it only where they are measured."""

from __future__ import annotations

from collections.abc import Sequence

from fedfleet.algorithms.plan import MAIN
from fedfleet.errors import OutOfMemory
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.levels import FULL, level_of_lane
from fedfleet.rounds.machine import Phase
from fedfleet.rounds.machines import Machine
from fedfleet.rounds.measured_levels import MeasuredLevels, waited_in_vain
from fedfleet.rounds.run_levels import RunLevels
from fedfleet_coordinator.executors import Executors
from fedfleet_coordinator.fleet import Fleet


class LevelDesk:
    """Brings a run's levels what workers say and do; all in the thread that computes."""

    def __init__(
        self, levels: RunLevels | None, machine: Machine, fleet: Fleet, executors: Executors
    ) -> None:
        self._levels = levels
        self._measured: MeasuredLevels | None = levels.measured if levels else None
        self._machine = machine
        self._fleet = fleet
        self._executors = executors

    def level(self, lane: str) -> str:
        """The width that workers on a lane train."""
        return level_of_lane(lane) if self._levels else FULL

    def lane(self, worker_id: str, round: int) -> str:
        """The lane that a worker is drawn for, by what it says of itself now; blocks."""
        measured = self._measured
        if measured is not None:
            measured.look({worker_id: self._fleet.told(worker_id, measured.digest)})
        return self._levels.lane_of(worker_id, round) if self._levels else MAIN

    async def to_probe(self, action: act.SelectCohort, drawn: Sequence[str]) -> tuple[str, ...]:
        """Who of those drawn has to measure itself before the cohort stands."""
        measured = self._measured
        if measured is None or action.losses is not None:
            return ()  # those that were asked have answered, or had their time
        return await self._executors.compute(lambda: measured.to_probe(drawn))

    async def counted(self, assignment_id: str, samples: int) -> None:
        """Take the number of examples that a worker was asked for its loss on."""
        measured, worker_id = self._measured, assignment_id.rpartition("/")[2]
        if measured is not None:
            await self._executors.compute(lambda: measured.counted(worker_id, samples))

    async def failed(self, assignment_id: str, code: str) -> None:
        """Take note of an assignment that failed."""
        measured = self._measured
        if measured is None or code != OutOfMemory.code:
            return
        slot = self._machine.slots[assignment_id]
        if slot.work is act.Work.TRAIN:
            level = level_of_lane(slot.lane)
            await self._executors.compute(lambda: measured.exhausted(slot.worker_id, level))

    async def closing(self) -> None:
        """Take note of those whose updates did not come."""
        measured = self._measured
        if measured is not None:
            late_s = waited_in_vain(self._machine.slots.values())
            await self._executors.compute(lambda: measured.late(late_s))

    def replay(self, events: Sequence[ev.Event]) -> None:
        """Take up what came in since the last commit, before anything is drawn or sent.

        Args:
            events: what the machine was told again after a restart, in order; what was before the
                last commit is in the book.
        """
        measured = self._measured
        if measured is None:
            return
        commits = [i for i, event in enumerate(events) if isinstance(event, ev.RoundCommitted)]
        for event in events[commits[-1] + 1 if commits else 0 :]:
            if isinstance(event, ev.ProbesSelected):
                measured.to_probe(event.workers)  # they are not asked again
            elif isinstance(event, ev.ProbeReported):
                measured.counted(event.assignment_id.rpartition("/")[2], event.samples)
            elif isinstance(event, ev.AssignmentFailed) and event.code == OutOfMemory.code:
                slot = self._machine.slots.get(event.assignment_id)
                if slot is not None and slot.work is act.Work.TRAIN:
                    measured.exhausted(slot.worker_id, level_of_lane(slot.lane))
        if self._machine.phase is Phase.EVALUATING:
            done = (self._machine.slots[key] for key in self._machine.done(act.Work.TRAIN))
            measured.enter(self._machine.round)
            measured.keep({slot.worker_id: level_of_lane(slot.lane) for slot in done})
