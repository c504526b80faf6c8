"""The queue of runs: one is driven at a time, the others wait in order of their submission."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from uuid import uuid4

from fedfleet.errors import Conflict, FedFleetError
from fedfleet.obs.logs import log_context
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.retry import backoff_s
from fedfleet.store.protocols import Entry, RunRecord, RunState
from fedfleet_coordinator.driver import RunDriver, Surroundings
from fedfleet_coordinator.workshop import Workshop, card_of

logger = logging.getLogger(__name__)


class RunQueue:
    """Owns the driver of the active run."""

    def __init__(self, around: Surroundings, data_dir: Path | None) -> None:
        self._around = around
        self._data_dir = data_dir
        self._submitted = asyncio.Event()
        self.active: RunDriver | None = None

    async def recover(self) -> None:
        """Make the run that was active ready before any worker can ask for it."""
        run = await self._next()
        if run is not None and run.state is RunState.RUNNING:
            self.active = await self._prepare(run)

    async def serve(self) -> None:
        """Drive one run after the other, for ever."""
        while True:
            if self.active is None:
                run = await self._next()
                if run is None:
                    self._submitted.clear()
                    await self._submitted.wait()
                    continue
                self.active = await self._prepare(run)
            if self.active is not None:
                with log_context(run_id=self.active.run_id):
                    await self._drive(self.active)

    async def submit(self, text: str) -> RunRecord:
        """Validate a recipe and queue its run; raises RecipeInvalid and its kin."""
        recipe = parse_recipe(text)
        card_of(recipe)
        now_s = time.time()
        run = RunRecord(
            run_id=f"r-{uuid4().hex[:12]}",
            model=recipe.name,
            recipe=text,
            state=RunState.QUEUED,
            rounds=recipe.rounds.rounds,
            created_at_s=now_s,
            updated_at_s=now_s,
        )
        entry = Entry(run_id=run.run_id, round=0, at_s=now_s, kind="run_submitted", fields={})
        await self._around.executors.io(lambda: self._around.store.journal.create_run(run, entry))
        self._submitted.set()
        self._around.changed()
        return run

    async def stop(self, run_id: str) -> RunRecord:
        """End a run; raises NotFound, or Conflict when it is over already."""
        journal = self._around.store.journal
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
            workshop = await self._around.executors.compute(
                lambda: Workshop(run, recipe, self._around.store, self._data_dir)
            )
            driver = RunDriver(run, recipe, workshop, self._around)
            await driver.prepare(run)
        except FedFleetError as error:
            if error.retryable:
                raise
            await self._end(run, RunState.FAILED, error.code, error.message)
            return None
        return driver

    async def _drive(self, driver: RunDriver) -> None:
        """Drive to the end; after a fault of the store take the run up again from the journal."""
        waits = backoff_s(1.0, 10.0)
        while True:
            try:
                await driver.drive()
                break
            except FedFleetError as error:
                if not error.retryable:
                    raise
                logger.error("run_interrupted", extra={"code": error.code, "reason": error.message})
            await asyncio.sleep(next(waits))
            resumed = await self._reopen(driver)
            if resumed is None:
                break
            driver = self.active = resumed
        self.active = None

    async def _reopen(self, driver: RunDriver) -> RunDriver | None:
        try:
            journal = self._around.store.journal
            run = await self._around.executors.io(lambda: journal.run(driver.run_id))
            return None if run.state.final else await self._prepare(run)
        except FedFleetError as error:
            if not error.retryable:
                raise
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
        self._around.metrics.runs.labels(state.value).inc()
        self._around.changed()
        return ended
