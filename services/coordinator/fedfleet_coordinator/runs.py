"""The queue of runs: one is driven at a time, the others wait in order of their submission."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from fedfleet.errors import Conflict, FedFleetError, LeaseLost
from fedfleet.obs.logs import log_context
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.retry import backoff_s
from fedfleet.store.protocols import Entry, RunRecord, RunState
from fedfleet_coordinator.driver import STORE_FAULTS, RunDriver
from fedfleet_coordinator.forgetting import forget_ended_run
from fedfleet_coordinator.held_store import HeldStore
from fedfleet_coordinator.surroundings import Surroundings
from fedfleet_coordinator.workshop import Workshop

logger = logging.getLogger(__name__)


def new_run_id() -> str:
    """An id that no run has had."""
    return f"r-{uuid4().hex[:12]}"


class RunQueue:
    """Owns the driver of the active run."""

    def __init__(self, around: Surroundings, data_dir: Path | None) -> None:
        self._around = around
        self._data_dir = data_dir
        self._submitted = asyncio.Event()
        self.active: RunDriver | None = None
        # The active driver stopped at a fault of the store; the journal has where it was.
        self._interrupted = False
        # Held while a run leaves the queue: a stop finds it either waiting or active.
        self._leaving = asyncio.Lock()

    async def recover(self) -> None:
        """Make the run that was active ready before any worker can ask for it."""
        run = await self._next()
        if run is not None and run.state is RunState.RUNNING:
            self.active = await self._prepare(run)
        else:
            await self._forget_ended()

    async def _forget_ended(self) -> None:
        await self._around.executors.io(lambda: forget_ended_run(self._store_of("")))

    def _store_of(self, run_id: str) -> HeldStore:
        """The store as the driver of a run has it: what it puts is not deleted by others."""
        return HeldStore(self._around.store, self._around.holds, run_id)

    async def serve(self) -> None:
        """Drive one run after the other, for ever; a fault of the store only delays."""
        waits = backoff_s(1.0, 10.0)
        while True:
            try:
                await self._serve_one()
                waits = backoff_s(1.0, 10.0)
            except STORE_FAULTS as error:
                # The driver stays active: what workers hold for it is still wanted. But nothing
                # more may be journalled past the machine that will replay the journal.
                self._interrupted = True
                if self.active is not None:
                    await self.active.retire()
                logger.error("run_interrupted", extra={"code": error.code, "reason": error.message})
                await asyncio.sleep(next(waits))

    async def _serve_one(self) -> None:
        """Drive the next run to its end, or wait until one is submitted."""
        if self.active is None or self._interrupted:
            self._submitted.clear()
            async with self._leaving:
                run = await self._next()
                if self._interrupted and (run is None or run.state is RunState.QUEUED):
                    # The run that was interrupted has ended; perhaps it was not cleaned up, and
                    # those who watch it were not told.
                    if self.active is not None:
                        self._around.holds.let_go(self.active.run_id)
                    await self._forget_ended()
                    self._around.changed()
                self.active = await self._prepare(run) if run is not None else None
            self._interrupted = False
            if run is None:
                await self._submitted.wait()
        driver = self.active
        if driver is None:
            return
        with log_context(run_id=driver.run_id):
            try:
                await driver.drive()
            except (*STORE_FAULTS, LeaseLost):
                raise  # not this run's fault
            except Exception as error:
                await driver.retire()
                await self._end_crashed(driver.run_id, error)
                await driver.forget()
        await self._free(driver.run_id)
        self._around.holds.let_go(driver.run_id)
        self.active = None

    async def _free(self, run_id: str) -> None:
        """Delete what an ended run stored and nothing names: a version that it broke over."""
        store = self._store_of(run_id)

        def work() -> None:
            if not store.journal.run(run_id).state.final:
                return
            for digest in self._around.holds.held_by(run_id):
                with suppress(Conflict):  # a record needs it
                    store.blobs.delete(digest)

        with suppress(*STORE_FAULTS):  # the run has ended all the same
            await self._around.executors.io(work)

    async def _end_crashed(self, run_id: str, error: Exception) -> None:
        """End a run by a fault that nobody foresaw; the next one goes on."""
        logger.error("run_crashed", exc_info=error, extra={"run_id": run_id})
        known = (
            error
            if isinstance(error, FedFleetError)
            else FedFleetError("internal error; the coordinator's log says more")
        )
        journal = self._around.store.journal
        run = await self._around.executors.io(lambda: journal.run(run_id))
        with suppress(Conflict):  # it had ended, and its cleaning crashed
            await self._end(run, RunState.FAILED, known.code, known.message)

    def wants(self, assignment_id: str) -> bool:
        """Whether the active run still wants a result for this assignment."""
        return self.active is not None and self.active.wants(assignment_id)

    def counting_rounds(self, run_id: str, round: int) -> range:
        """Rounds in which an update that started from this one may count, or have counted."""
        if self.active is None or self.active.run_id != run_id:
            return range(round, round + 1)
        return self.active.counting_rounds(round)

    async def submit(self, text: str, run_id: str) -> RunRecord:
        """Validate a recipe and queue its run; raises RecipeInvalid and its kin."""
        recipe = parse_recipe(text)
        card_of(recipe)
        now_s = time.time()
        run = RunRecord(
            run_id=run_id,
            model=recipe.name,
            recipe=text,
            state=RunState.QUEUED,
            rounds=recipe.rounds.rounds,
            created_at_s=now_s,
            updated_at_s=now_s,
        )
        entry = Entry(run_id=run.run_id, round=0, at_s=now_s, kind="run_submitted", fields={})
        await self._around.supervisor.finish("submit", self._create(run, entry))
        return run

    async def _create(self, run: RunRecord, entry: Entry) -> None:
        journal = self._around.store.journal
        try:
            await self._around.executors.io(lambda: journal.create_run(run, entry))
        finally:  # perhaps it was written although the store's answer was lost
            self._submitted.set()
            self._around.changed()

    async def stop(self, run_id: str) -> RunRecord:
        """End a run; raises NotFound, or Conflict when it is over already."""
        return await self._around.supervisor.finish("stop", self._stop(run_id))

    async def _stop(self, run_id: str) -> RunRecord:
        journal = self._around.store.journal
        async with self._leaving:
            run = await self._around.executors.io(lambda: journal.run(run_id))
            if run.state.final:
                raise Conflict(f"run {run_id} is {run.state.value} already")
            if self.active is not None and self.active.run_id == run_id:
                await self.active.stop()
                return run
            return await self._end(run, RunState.STOPPED, "", "stopped by an operator")

    # Inside

    async def _next(self) -> RunRecord | None:
        runs = await self._around.executors.io(self._around.store.journal.runs)
        waiting = [run for run in runs if not run.state.final]
        running = [run for run in waiting if run.state is RunState.RUNNING]
        return next(iter(running or waiting), None)

    async def _prepare(self, run: RunRecord) -> RunDriver | None:
        """Build a run's driver; one that cannot be built ends the run."""
        try:
            recipe = parse_recipe(run.recipe)
            around = replace(self._around, store=self._store_of(run.run_id))
            workshop = await around.executors.compute(
                lambda: Workshop(run, recipe, around.store, self._data_dir)
            )
            driver = RunDriver(run, recipe, workshop, around)
            await driver.prepare(run)
            around.holds.hold(run.run_id, workshop.needed)  # what an earlier process has put
        except (*STORE_FAULTS, LeaseLost):
            raise
        except FedFleetError as error:
            await self._end(run, RunState.FAILED, error.code, error.message)
            return None
        except Exception as error:
            await self._end_crashed(run.run_id, error)
            return None
        return driver

    async def _end(self, run: RunRecord, state: RunState, code: str, reason: str) -> RunRecord:
        entry = Entry(
            run_id=run.run_id,
            round=run.round,
            at_s=time.time(),
            kind="run_finished",
            fields={"outcome": state.value, "code": code, "reason": reason},
        )
        logger.info(
            "run_finished",
            extra={"run_id": run.run_id, "outcome": state.value, "code": code, "reason": reason},
        )
        ended = await self._around.executors.io(
            lambda: self._around.store.journal.set_run_state(
                run.run_id, state, entry, code=code, reason=reason
            )
        )
        self._around.holds.let_go(run.run_id)
        self._around.metrics.runs.labels(state.value).inc()
        self._around.changed()
        return ended
