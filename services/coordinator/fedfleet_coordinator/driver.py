"""Drives one run: events into the log, the machine's actions out, one after the other."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Union

from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.algorithms.plan import PlanRequest
from fedfleet.codecs.chain import Chain
from fedfleet.errors import (
    AssignmentClosed,
    FedFleetError,
    InvalidInput,
    LeaseLost,
    NotFound,
    StoreFull,
    StoreUnavailable,
    Unavailable,
    UpdateInvalid,
)
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.deadlines import training_deadline_s
from fedfleet.rounds.machines import make_machine
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.selection import Ballot, Drawing
from fedfleet.rounds.static_norm import needs_queries
from fedfleet.store.alias_history import LATEST
from fedfleet.store.protocols import (
    Entry,
    RoundCommit,
    RunRecord,
    RunState,
    UpdateRecord,
    VersionRecord,
)
from fedfleet.training.seeding import derive
from fedfleet.types import Evaluation
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.downlink import Ladder
from fedfleet.wire.updates import check_header, header_to_json
from fedfleet_coordinator.event_log import EventLog, replay
from fedfleet_coordinator.level_desk import LevelDesk
from fedfleet_coordinator.making import Making
from fedfleet_coordinator.promoting import Promoter
from fedfleet_coordinator.reports import observe_round
from fedfleet_coordinator.starts import Place, Start
from fedfleet_coordinator.surroundings import Surroundings
from fedfleet_coordinator.workshop import Workshop

logger = logging.getLogger(__name__)

# Faults that pass: the run waits for them and goes on from where the journal has it.
STORE_FAULTS = (StoreFull, StoreUnavailable)

_KINDS = {
    act.Work.TRAIN: pb.ASSIGNMENT_KIND_TRAIN,
    act.Work.EVALUATE: pb.ASSIGNMENT_KIND_EVALUATE,
    act.Work.PROBE: pb.ASSIGNMENT_KIND_PROBE,
    act.Work.QUERY: pb.ASSIGNMENT_KIND_QUERY,
}


_Todo = Union[act.Action, ev.DeadlinePassed, StoreUnavailable, "asyncio.Task[None]"]


class RunDriver:
    """One run from its start (or its resumption) to its end."""

    def __init__(
        self, run: RunRecord, recipe: Recipe, workshop: Workshop, around: Surroundings
    ) -> None:
        self.run_id = run.run_id
        self._recipe = recipe
        self._workshop = workshop
        self._around = around
        self._machine = make_machine(
            run.run_id,
            recipe,
            first_round=max(1, run.round),
            queries=needs_queries(recipe, workshop.schema),
        )
        self._desk = LevelDesk(workshop.levels, self._machine, around.fleet, around.executors)
        self._todo: asyncio.Queue[_Todo] = asyncio.Queue()
        self._log = EventLog(
            run.run_id, self._machine, around, self._workers, self._push, self._todo.put_nowait
        )
        # Where workers do not wait for a version, nothing that they need does.
        self._overlaps = make_algorithm(recipe.algorithm).asynchrony is not None
        executors = around.executors
        self._compute = executors.compute_aside if self._overlaps else executors.compute
        self._making = Making(self._todo.put_nowait)
        self._promoter = Promoter(run.run_id, recipe, around)
        # Payloads of refused updates. They go when the round closes: until then a journalled
        # update of another worker may have the very same bytes.
        self._refused: set[str] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._cohort_at_s = time.time()

    # Life

    async def prepare(self, run: RunRecord) -> None:
        """Bring the machine to where the journal says it was; call once, before serving."""
        journal = self._around.store.journal
        if run.state is RunState.QUEUED:
            await self._log.write(
                lambda: ev.RunStarted(at_s=time.time()),
                lambda entry: journal.set_run_state(run.run_id, RunState.RUNNING, entry),
            )
            return
        entries = await self._around.executors.io(lambda: journal.entries(run.run_id))
        # Of a long run it takes a while, and nobody else has the machine yet.
        self._desk.replay(await self._compute(lambda: replay(self._machine, entries)))
        open_rounds = self._machine.open_rounds
        await self._around.executors.io(lambda: self._workshop.load_rounds(open_rounds, entries))
        # The last commit's updates: the process may have ended before they were forgotten.
        await self._forget_updates(run.round)
        self._promoter.resume(entries)
        await self._promoter.settle(self._workshop)
        # Workers may be downloading what their assignments start from.
        for work in (act.Work.TRAIN, act.Work.EVALUATE):
            for assignment_id in self._machine.open(work):
                slot, place = self._machine.slots[assignment_id], self._machine.place(assignment_id)
                await self._start_of(
                    work, slot.worker_id, self._machine.round_of(assignment_id), place
                )
        logger.info(
            "run_resumed",
            extra={
                "run_id": run.run_id,
                "round": self._machine.round,
                "phase": self._machine.phase.value,
            },
        )
        if self._machine.finish is not None:
            self._push([self._machine.finish])
        else:
            await self._log.append(ev.RunResumed(at_s=time.time()))

    async def drive(self) -> None:
        """Carry out actions until the run is over."""
        forget = self._around.fleet.listen(self._fleet_changed)
        try:
            self._fleet_changed()
            while True:
                action = await self._todo.get()
                if isinstance(action, StoreUnavailable):
                    raise action
                if isinstance(action, ev.DeadlinePassed):
                    await self._log.ring(action)
                elif isinstance(action, asyncio.Task):
                    action.result()
                elif self._overlaps and isinstance(action, act.Aggregate):
                    await self._making.start(self._carry_out(action))
                else:
                    await self._carry_out(action)
                if isinstance(action, act.FinishRun):
                    return
        finally:
            forget()
            self._set_alarm(None)
            await self._making.end()

    async def stop(self) -> None:
        """End the run on an operator's request."""
        await self._log.append(ev.StopRequested(at_s=time.time()))

    async def retire(self) -> None:
        """Let nothing into the journal any more: another driver takes the run up from there."""
        await self._log.retire()

    def uplink_of(self, assignment_id: str) -> Chain:
        """What the update of an assignment goes through."""
        return self._workshop.uplink_of(self._machine.place(assignment_id)[0])

    def codec_of(self, digest: str) -> Chain:
        """What a blob that workers download went through."""
        return self._workshop.codec_of(digest)

    # What workers send

    def counting_rounds(self, round: int) -> range:
        """Rounds in which an update that started from this one may count, or have counted."""
        return self._machine.counting_rounds(round)

    def wants(self, assignment_id: str) -> bool:
        """Whether a result for this assignment is still wanted."""
        return self._machine.is_open(assignment_id)

    def check_header(self, header: pb.UpdateHeader) -> None:
        """Check what can be checked before the payload comes; raises what is wrong."""
        if not self._machine.is_open(header.assignment_id, act.Work.TRAIN):
            raise AssignmentClosed(
                f"assignment {header.assignment_id[:200]} is closed or unknown; drop the update"
            )
        if not header.assignment_id.endswith("/" + header.worker_id):
            raise AssignmentClosed(
                f"assignment {header.assignment_id} was not given to worker "
                f"{header.worker_id[:80]!r}"
            )
        round = self._machine.round_of(header.assignment_id)
        if header.round != round:
            raise UpdateInvalid(f"round {header.round}: the assignment is of round {round}")
        lane = self._machine.place(header.assignment_id)[0]
        level = self._desk.level(lane)
        if header.level != level:
            raise UpdateInvalid(f"level {header.level[:16]!r}: the assignment is of level {level}")
        check_header(header, self._workshop.schema_of(lane), self._workshop.uplink_of(lane))

    async def accept(self, header: pb.UpdateHeader) -> bool:
        """Check and journal an update whose payload is stored under its digest.

        Returns:
            Whether it was journalled before.
        """
        self.check_header(header)
        place = self._machine.place(header.assignment_id)
        try:
            await self._around.executors.compute_aside(lambda: self._workshop.check(header, *place))
        except NotFound as error:
            raise _deleted(error) from error

        def event() -> ev.UpdateAccepted:
            # The round may have closed while the update was checked.
            if not self._machine.is_open(header.assignment_id, act.Work.TRAIN):
                raise AssignmentClosed(f"assignment {header.assignment_id} has closed")
            return ev.UpdateAccepted(
                at_s=time.time(), assignment_id=header.assignment_id, weight=header.weight
            )

        def store(entry: Entry) -> bool:
            record = UpdateRecord(
                run_id=self.run_id,
                round=self._machine.counting_round,
                assignment_id=header.assignment_id,
                worker_id=header.worker_id,
                header=header_to_json(header),
                digest=header.payload_digest,
                size_bytes=header.payload_bytes,
                accepted_at_s=entry.at_s,
            )
            try:
                return self._around.store.journal.accept_update(record, entry)
            except NotFound as error:
                raise _deleted(error) from error

        return not await self._log.write(event, store)

    async def report(self, assignment_id: str, evaluation: Evaluation) -> None:
        """Take a worker's evaluation."""
        if self._machine.is_open(assignment_id, act.Work.PROBE):
            await self._report_loss(assignment_id, evaluation)
            return
        if not self._machine.is_open(assignment_id, act.Work.EVALUATE):
            return
        classes = len(self._workshop.card.classes)
        if len(evaluation.class_samples) != classes:
            reason = f"an evaluation over {len(evaluation.class_samples)} classes, not {classes}"
            await self.fail_assignment(assignment_id, InvalidInput.code, reason)
            return
        await self._log.append(
            ev.EvaluationReported(
                at_s=time.time(), assignment_id=assignment_id, evaluation=evaluation.to_json()
            )
        )

    async def _report_loss(self, assignment_id: str, evaluation: Evaluation) -> None:
        loss, samples = evaluation.loss, evaluation.samples
        if not math.isfinite(loss):
            reason = "a loss over no example, or none that is a number"
            await self.fail_assignment(assignment_id, InvalidInput.code, reason)
            return
        await self._desk.counted(assignment_id, samples)
        await self._log.append(
            ev.ProbeReported(
                at_s=time.time(), assignment_id=assignment_id, loss=loss, samples=samples
            )
        )

    async def take_statistics(self, report: pb.StatisticsReport) -> None:
        """Take what a worker measured of the round's outcome."""
        key = report.assignment_id
        if not self._machine.is_open(key, act.Work.QUERY):
            return
        try:
            measured = await self._around.executors.compute_aside(
                lambda: self._workshop.read_measured(report)
            )
        except InvalidInput as error:
            await self.fail_assignment(key, error.code, error.message)
            return
        digest = await self._around.executors.io(
            lambda: self._workshop.store_measured(key, measured)
        )

        def event() -> ev.StatisticsReported:
            # It may have been answered, or closed, meanwhile.
            if not self._machine.is_open(key, act.Work.QUERY):
                raise AssignmentClosed(f"assignment {key} has closed")
            return ev.StatisticsReported(
                at_s=time.time(), assignment_id=key, samples=measured.samples, blobs=(digest,)
            )

        with suppress(AssignmentClosed):
            await self._log.write(
                event,
                self._around.store.journal.append,
                lambda _: self._workshop.take_measured(key, measured),
            )

    async def fail_assignment(self, assignment_id: str, code: str, reason: str) -> None:
        """Take note that an assignment will not be carried out."""
        if self.wants(assignment_id):
            await self._desk.failed(assignment_id, code)
            await self._log.append(
                ev.AssignmentFailed(
                    at_s=time.time(), assignment_id=assignment_id, code=code, reason=reason
                )
            )

    async def discard(self, digest: str) -> None:
        """Delete a refused update's payload: when the round closes, or now if all have."""
        self._refused.add(digest)
        if self._machine.finish is not None:
            await self._forget_updates(self._machine.round)

    # Events

    def _push(self, actions: list[act.Action]) -> None:
        for action in actions:
            self._todo.put_nowait(action)

    def _workers(self) -> frozenset[str]:
        """Who can take assignments of this run now."""
        return self._admitted(self._around.fleet.ready)

    def _admitted(self, names: Iterable[str]) -> frozenset[str]:
        fleet, rounds = self._around.fleet, self._recipe.rounds
        return frozenset(name for name in names if rounds.admits(fleet.tags(name)))

    def _fleet_changed(self) -> None:
        self._log.tell_fleet(time.time())

    def _deadline(self) -> None:
        workers, resting = self._workers(), self._admitted(self._around.fleet.resting)
        self._todo.put_nowait(
            ev.DeadlinePassed(
                at_s=time.time(), workers=tuple(sorted(workers)), resting=len(resting)
            )
        )

    def _set_alarm(self, at_s: float | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        if at_s is not None:
            # A little late rather than early: an early alarm would be ignored as stale.
            wait_s = max(0.0, at_s - time.time()) + 0.002
            self._alarm = asyncio.get_running_loop().call_later(wait_s, self._deadline)

    # Actions

    async def _carry_out(self, action: act.Action) -> None:
        """Do what the machine asks; what can never succeed ends the run with its reason.

        A fault of the store (it is full or away, or another's now) goes up: the run is taken up
        again later from where the journal has it.
        """
        try:
            await self._dispatch(action)
        except FedFleetError as error:
            if isinstance(error, (*STORE_FAULTS, LeaseLost)) or isinstance(action, act.FinishRun):
                raise
            broken = ev.RunBroken(at_s=time.time(), code=error.code, reason=error.message)
            self._push(self._machine.handle(broken))

    async def _dispatch(self, action: act.Action) -> None:
        if isinstance(action, act.SelectCohort):
            await self._select(action)
        elif isinstance(action, act.SendAssignment):
            await self._send(action)
        elif isinstance(action, act.CancelAssignment):
            self._cancel(action)
        elif isinstance(action, act.WakeAt):
            self._set_alarm(action.at_s)
        elif isinstance(action, act.FoldUpdate):
            await self._fold(action)
        elif isinstance(action, act.Aggregate):
            await self._aggregate(action)
        elif isinstance(action, act.CloseRound):
            self._workshop.keep_rounds(self._machine.open_rounds)
            await self._forget_updates(action.round)
            await self._promoter.settle(self._workshop)
        else:
            await self._finish(action)

    async def _select(self, action: act.SelectCohort) -> None:
        recipe, workshop = self._recipe, self._workshop
        drawing = Drawing(
            recipe.rounds,
            Ballot.of(
                action,
                workshop.history,
                run_seed=derive(recipe.seed, "participation"),
                draw_seed=derive(recipe.seed, "cohort", action.round, action.draw),
            ),
        )
        probed = await self._compute(drawing.to_probe)  # of a large fleet it takes a while
        if probed:
            await self._log.append(ev.ProbesSelected(at_s=time.time(), workers=probed))
            return
        request = PlanRequest(
            action.round,
            action.candidates,
            action.size,
            drawing,
            workshop.memory,
            lambda worker_id: self._desk.lane(worker_id, action.round),
        )
        plan = await self._compute(lambda: workshop.plan(request))
        unknown = await self._desk.to_probe(action, plan.workers)
        if unknown:
            await self._log.append(ev.ProbesSelected(at_s=time.time(), workers=unknown))
            return
        if not self._machine.open(act.Work.TRAIN):
            self._cohort_at_s = time.time()
        attempt = self._machine.attempt
        lasts_s = training_deadline_s(recipe.rounds, workshop.history, plan.chains, attempt)
        event = ev.cohort_selected(plan, time.time(), drawing.corrections, lasts_s)
        await self._log.append(event)

    async def _start_of(
        self, work: act.Work, worker_id: str, round: int, place: Place = ("", ())
    ) -> Ladder | Start:
        """What an assignment starts from, stored if it was not."""
        workshop, compute = self._workshop, self._compute
        if work is act.Work.TRAIN:
            return await compute(lambda: workshop.start_of(*place, round))
        if work is act.Work.QUERY:
            lanes = self._lanes(self._machine.done(act.Work.TRAIN))
            return await compute(lambda: workshop.outcome_of(round, lanes))
        lane = workshop.lane_of(worker_id, round)
        if work is act.Work.EVALUATE:
            return await compute(lambda: workshop.published_to(worker_id, lane))
        return await compute(lambda: workshop.start_of(lane, (), round))

    async def _send(self, action: act.SendAssignment) -> None:
        if not self._machine.is_open(action.assignment_id):
            return  # while this waited for its turn
        place = (action.lane, action.after)
        lane = action.lane
        if action.work in (act.Work.EVALUATE, act.Work.PROBE):
            lane = self._workshop.lane_of(action.worker_id, action.round)
        start = await self._start_of(action.work, action.worker_id, action.round, place)
        if not self._machine.is_open(action.assignment_id):
            return  # its update came while the start was made
        assignment = pb.Assignment(
            assignment_id=action.assignment_id,
            run_id=self.run_id,
            round=action.round,
            kind=_KINDS[action.work],
            base_digest=start.base_digest,
            base_bytes=start.base_bytes,
            deltas=start.deltas,
            broadcast=self._workshop.broadcast if action.work is act.Work.TRAIN else (),
            schema_digest=self._workshop.schema_of(lane).digest,
            level=self._desk.level(lane),
            recipe=self._recipe.source,
            deadline_s=max(0.0, action.deadline_s - time.time()),
            seed=derive(self._recipe.seed, *action.seed_labels),
        )
        self._around.fleet.send(action.worker_id, pb.ConnectResponse(assignment=assignment))

    def _cancel(self, action: act.CancelAssignment) -> None:
        cancel = pb.CancelAssignment(
            assignment_id=action.assignment_id,
            code=AssignmentClosed.code,
            reason=action.reason,
        )
        self._around.fleet.send(action.worker_id, pb.ConnectResponse(cancel=cancel))

    async def _fold(self, action: act.FoldUpdate) -> None:
        journal, round = self._around.store.journal, self._machine.round
        record = await self._around.executors.io(
            lambda: journal.update(self.run_id, round, action.assignment_id)
        )
        assert record is not None, "what was accepted is in the journal"
        slot = self._machine.slots[action.assignment_id]
        staleness = self._machine.staleness(action.assignment_id)
        await self._around.executors.compute(
            lambda: self._workshop.fold(record, slot.lane, slot.correction, staleness)
        )

    async def _aggregate(self, action: act.Aggregate) -> None:
        executors, store = self._around.executors, self._around.store
        lanes = self._lanes(action.assignment_ids)
        make_next = partial(
            self._workshop.make_next,
            action.round,
            lanes,
            asked=self._machine.cohort,
            durations_s=self._machine.durations_s,
            evaluate=action.evaluate,
            queries=action.queries,
        )
        await self._desk.closing()
        made = await executors.compute(make_next)
        duration_s = time.time() - self._cohort_at_s
        moved = self._around.traffic.take_round()
        cohort = len(self._machine.cohort)
        version = await executors.io(
            lambda: self._workshop.version_of(made, action.round, cohort, duration_s, moved)
        )
        if self._around.sign is not None:
            version = self._around.sign(version)

        def event() -> ev.RoundCommitted:
            return ev.RoundCommitted(
                at_s=time.time(),
                version=version.number,
                digest=version.digest,
                workers=tuple(sorted(self._workers())),
            )

        def commit(entry: Entry) -> VersionRecord:
            fields = {**entry.fields, "metrics": version.metrics, **made.to_fields()}
            return store.commit_round(
                RoundCommit(
                    run_id=self.run_id,
                    round=action.round,
                    version=version,
                    memory_digest=made.memory_digest,
                    aliases=(LATEST,),
                    entry=replace(entry, fields=fields),
                )
            )

        await self._log.write(event, commit, lambda done: self._workshop.advance(made, done))
        self._cohort_at_s = time.time()  # for workers that train on
        observe_round(self._around.metrics, version, duration_s, made.evaluation)

    def _lanes(self, assignment_ids: Sequence[str]) -> dict[str, str]:
        return {key: self._machine.place(key)[0] for key in assignment_ids}

    async def forget(self) -> None:
        """Delete what is left of a run that is over; its versions stay."""
        for round in range(self._machine.round, self._machine.counting_round + 1):
            await self._forget_updates(round)
        await self._around.executors.io(self._workshop.forget_run)

    async def _forget_updates(self, round: int) -> None:
        refused = tuple(self._refused)
        self._refused.clear()
        await self._around.executors.io(lambda: self._workshop.forget_updates(round, refused))

    async def _finish(self, action: act.FinishRun) -> None:
        await self._making.wait()  # it may be in the middle of its commit
        await self._promoter.settle(self._workshop)  # a round that was evaluated has not closed
        entry = Entry(
            run_id=self.run_id,
            round=self._machine.round,
            at_s=time.time(),
            kind="run_finished",
            fields={"outcome": action.outcome, "code": action.code, "reason": action.reason},
        )
        state = RunState(action.outcome)
        journal = self._around.store.journal
        await self._around.executors.io(
            lambda: journal.set_run_state(
                self.run_id, state, entry, code=action.code, reason=action.reason
            )
        )
        self._around.metrics.runs.labels(action.outcome).inc()
        logger.info(
            "run_finished",
            extra={
                "run_id": self.run_id,
                "outcome": action.outcome,
                "code": action.code,
                "reason": action.reason,
            },
        )
        self._around.changed()
        await self.forget()


def _deleted(error: NotFound) -> Unavailable:
    """A closed round's update had the very same bytes, and they went with it."""
    return Unavailable("the payload was deleted meanwhile: send it again", detail=error.message)
