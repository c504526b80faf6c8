"""Journals a run's events and hands them to its machine, in one order.

Order is what makes a replay exact: an event is written and handled under one lock, so the machine
sees events in the order of their journal ids. And an event that is written is always handled: the
step is finished even when the call that brought the event is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from fedfleet.errors import StoreUnavailable
from fedfleet.rounds import events as ev
from fedfleet.rounds.actions import Action
from fedfleet.rounds.machines import Machine
from fedfleet.store.protocols import Entry
from fedfleet_coordinator.surroundings import Surroundings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class EventLog:
    """The only way into a run's machine.

    Args:
        workers: those that can take assignments of this run now.
        on_actions: takes what the machine asks for, in order.
        on_fault: told when nobody knows whether an event was written. From then on nothing is
            written here: the run is to be taken up again from the journal.
    """

    def __init__(
        self,
        run_id: str,
        machine: Machine,
        around: Surroundings,
        workers: Callable[[], frozenset[str]],
        on_actions: Callable[[list[Action]], None],
        on_fault: Callable[[StoreUnavailable], None],
    ) -> None:
        self._run_id = run_id
        self._machine = machine
        self._around = around
        self._workers = workers
        self._on_actions = on_actions
        self._on_fault = on_fault
        self._order = asyncio.Lock()
        self._retired = False

    async def append(self, event: ev.Event) -> None:
        """Journal an event that stands alone."""
        await self.write(lambda: event, self._around.store.journal.append)

    async def ring(self, event: ev.DeadlinePassed) -> None:
        """Journal an alarm; log it where all that came of it is that the run waits on."""
        await self.append(event)
        if self._machine.put_off_for:
            fields = {
                "run_id": self._run_id,
                "round": self._machine.round,
                "ready": len(event.workers),
                "resting": event.resting,
            }
            logger.info("run_waits_for_resting_workers", extra=fields)

    async def write(
        self,
        make: Callable[[], ev.Event],
        store: Callable[[Entry], T],
        after: Callable[[T], None] = lambda _: None,
    ) -> T:
        """Journal an event together with what belongs to it.

        Args:
            make: the event, as things stand once it is its turn; may raise instead.
            store: writes the entry and what goes with it in one transaction; blocks.
            after: runs between the write and the machine.

        Raises:
            StoreUnavailable: this run is being taken up again from the journal; try again.
        """
        return await self._around.supervisor.finish("event", self._write(make, store, after))

    async def _write(
        self,
        make: Callable[[], ev.Event],
        store: Callable[[Entry], T],
        after: Callable[[T], None],
    ) -> T:
        async with self._order:
            if self._retired:
                raise _taken_up_again()
            event = make()
            entry = Entry(
                run_id=self._run_id,
                round=self._machine.round,
                at_s=event.at_s,
                kind=ev.kind_of(event),
                fields=ev.to_fields(event),
            )
            try:
                written = await self._around.executors.io(lambda: store(entry))
            except StoreUnavailable as error:
                self._give_up(error)
                raise
            try:
                after(written)
                self._on_actions(self._machine.handle(event))
            except BaseException:
                # Written, and handled by half: the journal alone knows where the run is.
                self._give_up(_taken_up_again())
                raise
        # Some events carry the fleet as it was before the write.
        self.tell_fleet(event.at_s)
        self._around.changed()
        return written

    def _give_up(self, error: StoreUnavailable) -> None:
        self._retired = True
        self._on_fault(error)

    def tell_fleet(self, at_s: float) -> None:
        """Tell the machine who is there; not journalled, it is told anew after a restart."""
        event = ev.FleetChanged(at_s=at_s, workers=self._workers())
        self._on_actions(self._machine.handle(event))

    async def retire(self) -> None:
        """Let nothing be written any more; returns when nothing is being written."""
        async with self._order:
            self._retired = True


def _taken_up_again() -> StoreUnavailable:
    # A fault of the store to whoever waits, so that nobody takes it for the end of the run.
    return StoreUnavailable("the run is being taken up again; try again in a moment")


def replay(machine: Machine, entries: Sequence[Entry]) -> list[ev.Event]:
    """Bring a new machine to where a run's entries say it was; returns what it was told.

    Begins with the machine's round. Blocks for tens of microseconds an event.
    """
    first_round = machine.round
    machine.handle(ev.RunStarted(at_s=round_began_s(entries, first_round)))
    told = []
    for entry in entries:
        event = ev.from_fields(entry.kind, entry.at_s, entry.fields)
        if event is not None and entry.round >= first_round:
            machine.handle(event)
            told.append(event)
    return told


def round_began_s(entries: Sequence[Entry], round: int) -> float:
    """When a round began: with the last entry of the round before, or with the run."""
    return max(
        entry.at_s
        for entry in entries
        if 1 <= entry.round < round or entry.kind == ev.kind_of(ev.RunStarted(at_s=0.0))
    )
