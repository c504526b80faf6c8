"""Drives the round machine without a network: same recipe, same halves, virtual time.

With the same recipe and seed the versions are bit-identical to those of a deployed run whose
workers are ``worker-0`` to ``worker-(n-1)`` with shard i, on the same machine and with the same
number of threads per training (tests/integration/test_parity.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.algorithms.plan import PlanRequest
from fedfleet.data.shard import Shards
from fedfleet.errors import FedFleetError, OutOfMemory, SettingInvalid
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.card import card_of
from fedfleet.rounds.deadlines import training_deadline_s
from fedfleet.rounds.levels import FULL, level_of_lane
from fedfleet.rounds.machines import make_machine
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.run_levels import RunLevels
from fedfleet.rounds.selection import Ballot, Drawing
from fedfleet.rounds.static_norm import needs_queries
from fedfleet.sim.carried_tags import fleet_of
from fedfleet.sim.checkpoint import Checkpoint, Snapshot
from fedfleet.sim.coordinator import DIGEST, SimulatedCoordinator, memory_key
from fedfleet.sim.devices import DeviceProfile, ModelCost, Pace, assign, needs_flops
from fedfleet.sim.inprocess import InProcess
from fedfleet.sim.jobs import (
    Engine,
    Evaluated,
    EvaluateJob,
    Failed,
    Job,
    Queried,
    QueryJob,
    Result,
    Trained,
    TrainJob,
)
from fedfleet.sim.measured import SimulatedProbes
from fedfleet.sim.model_cost import costs_of
from fedfleet.sim.outcome import SimulatedRound, Simulation
from fedfleet.sim.traces import ALWAYS, Presence, Trace, times_of
from fedfleet.sim.workplace import RUN_ID, Workplace
from fedfleet.training.local import LocalTrainer
from fedfleet.training.seeding import derive
from fedfleet.training.stacked import StackedTrainer, why_not_stacked
from fedfleet.training.trainers import Trainers
from fedfleet.types import ModelState


def simulate(
    recipe: Recipe,
    data_dir: Path | None = None,
    on_round: Callable[[SimulatedRound], None] | None = None,
    *,
    engine: Engine | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    batch_workers: int = 1,
    checkpoint: Path | None = None,
    tags: Mapping[str, Collection[str]] | None = None,
    devices: Sequence[DeviceProfile] = (),
    availability: Sequence[Trace] = (),
) -> Simulation:
    """Run a recipe to its end.

    Args:
        on_round: called as each round closes, at first for those of the checkpoint.
        engine: carries out the workers' part, and is left open; None does it in this process.
        device: overrides the recipe's, for what this process computes.
        batch_workers: train so many workers as one batch, where no other engine is given; results
            then differ by the rounding of float32.
        checkpoint: a folder that keeps the run as each round closes; one that was cut off goes on
            from there, and comes to what an undisturbed one does, bit for bit.
        tags: what each worker carries, for a recipe with ``rounds.tags``.
        devices: what the workers stand for; results then come, and deadlines pass, in virtual time.
        availability: when workers are connected, in virtual time; the others always are.

    Raises:
        RecipeInvalid: too few workers carry a tag that the recipe names.
        SettingInvalid, DataInvalid: the folder cannot be used, the recipe's workers cannot be
            trained as one batch, or the tags or the traces are not of its workers.
        StateInUse: another process keeps a run in the folder.
        FedFleetError: data or model cannot be had; a worker's failure fails its assignment only.
    """
    card = card_of(recipe)
    trainers = Trainers(card, recipe.training, recipe.evaluation, recipe.levels, device=device)
    trainer = trainers.at()
    shards = Shards(recipe.data, seed=recipe.seed, data_dir=data_dir)
    test = shards.load("test", None) if recipe.evaluation.coordinator else None
    levels = (
        RunLevels(recipe, trainers.models, derive(recipe.seed, "levels"))
        if trainers.models
        else None
    )
    coordinator = SimulatedCoordinator(recipe, card, trainer, test, levels)
    if engine is None:
        stacked = _stacked(trainer, batch_workers, has_levels=trainers.models is not None)
        engine = InProcess(Workplace(recipe, trainers, shards, data_dir=data_dir), stacked)
    with ExitStack() as closing:
        closing.callback(coordinator.memories.close)
        driver = Driver(recipe, coordinator, engine, on_round or (lambda _: None), tags or {})
        if devices:
            costs = costs_of(card, recipe.training, trainers.models, flops=needs_flops(devices))
            driver.pace(devices, costs)
        elif levels is not None and levels.measured is not None:
            raise SettingInvalid(
                'levels.assignment = "measured": a simulation has nothing to measure; name devices'
            )
        if availability:
            driver.follow(availability)
        if checkpoint is not None:
            _check_rounds_end(recipe)
            carried = sorted((name, sorted(own)) for name, own in (tags or {}).items())
            fleet = repr((carried, tuple(devices))) if carried or devices else ""
            fleet += repr(tuple(availability)) if availability else ""
            fleet += f" batch_workers={batch_workers}" if batch_workers > 1 else ""
            models = trainers.models
            narrow = {level: models.schema(level) for level in models.levels[1:]} if models else {}
            kept = Checkpoint(checkpoint, recipe, trainer.schema, fleet, narrow)
            closing.enter_context(kept.held())
            driver.keep_in(kept)
        return driver.run(card.classes)


def _check_rounds_end(recipe: Recipe) -> None:
    if make_algorithm(recipe.algorithm).asynchrony is not None:
        raise SettingInvalid(
            f'--checkpoint: with algorithm.name = "{recipe.algorithm.name}" workers train across '
            "the end of every round, so there is no moment to keep; leave it out"
        )


def _stacked(
    trainer: LocalTrainer, batch_workers: int, *, has_levels: bool
) -> StackedTrainer | None:
    if batch_workers == 1:
        return None
    reason = "[levels]" if has_levels else why_not_stacked(trainer)
    if reason:
        raise SettingInvalid(
            f"batch_workers = {batch_workers}: workers cannot be trained as one batch with "
            f"{reason}; leave it out"
        )
    return StackedTrainer(trainer, batch_workers)


class Driver:
    """One simulated run.

    Args:
        engine: carries out the workers' part.
        tags: what each worker carries.
    """

    def __init__(
        self,
        recipe: Recipe,
        coordinator: SimulatedCoordinator,
        engine: Engine,
        on_round: Callable[[SimulatedRound], None],
        tags: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        self._recipe = recipe
        self._coordinator = coordinator
        self._engine = engine
        self._on_round = on_round
        self._checkpoint: Checkpoint | None = None
        self._queries = needs_queries(recipe, coordinator.served.schema)
        self._machine = make_machine(RUN_ID, recipe, queries=self._queries)
        self._rounds: list[SimulatedRound] = []
        self._todo: deque[act.Action] = deque()
        self._sent: list[act.SendAssignment] = []
        self._fleet = fleet_of(recipe, tags)
        self._now_s = 0.0
        self._alarm_s = 0.0
        self._pace: Pace | None = None
        self._probes = SimulatedProbes(coordinator.levels)
        # Without profiles results are there at once; but in a run without rounds' ends each waits
        # until those before it were taken, which may lead to another version.
        self._waits = make_algorithm(recipe.algorithm).asynchrony is not None
        # When each result will be there, in virtual time.
        self._arrivals: list[tuple[float, int, Result]] = []
        self._sequence = count()
        self._times = dict.fromkeys(self._fleet, ALWAYS)
        self._presence = Presence(self._times)
        self._down_bytes: dict[str, int] = {}  # of the assignments that are carried out

    def pace(self, devices: Sequence[DeviceProfile], costs: Mapping[str, ModelCost]) -> None:
        """Let assignments take as long as they would on these devices."""
        seed = derive(self._recipe.seed, "devices")
        self._pace = Pace(assign(devices, self._fleet, seed), costs, derive(seed, "jitter"))
        self._probes.pace = self._pace
        self._waits = True

    def follow(self, availability: Sequence[Trace]) -> None:
        """Let workers come and go; raises SettingInvalid: one is not of the fleet."""
        if self._pace is None:
            raise SettingInvalid("availability: is in virtual time, which needs devices")
        seed = derive(self._recipe.seed, "availability")
        self._times = times_of(availability, self._fleet, seed)

    def keep_in(self, checkpoint: Checkpoint) -> None:
        """Keep the run as each round closes; go on after the last one that was kept."""
        self._checkpoint = checkpoint
        before = checkpoint.load(self._coordinator.memories)
        if before is None:
            return
        self._rounds = list(before.rounds)
        self._now_s = before.now_s
        closed = self._rounds[-1].round
        self._coordinator.go_on(before.coordinator, closed + 1)
        self._machine = make_machine(RUN_ID, self._recipe, closed + 1, queries=self._queries)
        for done in self._rounds:
            self._on_round(done)

    def run(self, classes: tuple[str, ...]) -> Simulation:
        """Carry out actions until none is left; then what was sent; then the alarm rings."""
        if len(self._rounds) == self._recipe.rounds.rounds:
            return self._simulation("completed", "", "", classes)
        self._presence = Presence(self._times, self._now_s)
        self._tell(ev.RunStarted(at_s=self._now_s))
        self._tell_fleet()
        while self._machine.finish is None or self._todo:
            self._carry_out_all()
            if self._sent:
                self._work()
            elif self._arrives():
                self._now_s, _, result = heappop(self._arrivals)
                self._take(result)
            elif self._machine.finish is None:
                self._wait()
        finish = self._machine.finish
        return self._simulation(finish.outcome, finish.code, finish.reason, classes)

    def _simulation(
        self, outcome: str, code: str, reason: str, classes: tuple[str, ...]
    ) -> Simulation:
        return Simulation(
            outcome=outcome,
            code=code,
            reason=reason,
            state=self._coordinator.served,
            rounds=tuple(self._rounds),
            classes=classes,
            levels=self._coordinator.level_statistics,
        )

    def _tell_fleet(self) -> None:
        self._tell(ev.FleetChanged(at_s=self._now_s, workers=frozenset(self._presence.workers)))

    def _wait(self) -> None:
        """Nothing comes before the alarm, or before somebody comes or goes."""
        if self._presence.next_s > self._alarm_s:
            self._now_s = self._alarm_s
            self._tell(ev.DeadlinePassed(at_s=self._now_s, workers=self._presence.workers))
            return
        self._now_s = self._presence.next_s
        gone = self._presence.move_on(self._now_s)
        # What they worked on is lost; if it is wanted still, it is begun anew when they are back.
        self._arrivals = [one for one in self._arrivals if _worker_of(one[2]) not in gone]
        heapify(self._arrivals)
        self._tell_fleet()

    def _tell(self, event: ev.Event) -> None:
        self._todo.extend(self._machine.handle(event))

    def _carry_out_all(self) -> None:
        while self._todo:
            self._carry_out(self._todo.popleft())

    def _carry_out(self, action: act.Action) -> None:
        if isinstance(action, act.SelectCohort):
            self._select(action)
        elif isinstance(action, act.SendAssignment):
            self._sent.append(action)
        elif isinstance(action, act.WakeAt):
            self._alarm_s = action.at_s
        elif isinstance(action, act.FoldUpdate):
            self._fold(action.assignment_id)
        elif isinstance(action, act.Aggregate):
            self._aggregate(action)
        elif isinstance(action, act.CloseRound):
            self._close_round()

    def _close_round(self) -> None:
        if self._checkpoint is not None:
            kept = Snapshot(
                now_s=self._now_s, rounds=self._rounds, coordinator=self._coordinator.keep()
            )
            self._checkpoint.save(kept, self._coordinator.memories)
        self._coordinator.keep_rounds(self._machine.open_rounds)
        self._on_round(self._rounds[-1])

    # The workers' part

    def _work(self) -> None:
        """Have what was sent done; without profiles each result is there at once."""
        actions, self._sent = [one for one in self._sent if self._fits(one)], []
        if self._waits:  # no result is there before all are done
            self._down_bytes = {one.assignment_id: self._count(one) for one in actions}
        # Made when they are asked for: the state of a job that nobody wants need not be computed.
        results = self._engine.carry_out(map(self._job, actions))
        for place, action in enumerate(actions):
            if not any(self._machine.is_open(one.assignment_id) for one in actions[place:]):
                break  # over-selected: the cohort is complete already
            if self._waits:
                self._await(action, self._down_bytes[action.assignment_id], next(results))
                continue
            self._count(action)
            self._take(next(results))
            self._carry_out_all()

    def _await(self, action: act.SendAssignment, down_bytes: int, result: Result) -> None:
        took_s = 0.0
        if self._pace is not None:
            level = self._level(action)
            took_s = self._pace.seconds(action.worker_id, down_bytes, result, level)
        heappush(self._arrivals, (self._now_s + took_s, next(self._sequence), result))

    def _fits(self, action: act.SendAssignment) -> bool:
        """Whether the worker's device has the memory; if not, it says so after the download."""
        if self._pace is None or action.work is not act.Work.TRAIN:
            return True
        try:
            self._pace.check_memory(action.worker_id, self._level(action))
        except OutOfMemory as error:
            failed = Failed(
                assignment_id=action.assignment_id, code=error.code, reason=error.message
            )
            self._await(action, self._count(action), failed)
            return False
        return True

    def _most_steps(self, action: act.SendAssignment, base: ModelState) -> int | None:
        """How many steps a worker has time for, so that its update is there by the deadline.

        None for all of them. As on a device, where training ends at the deadline less the time of
        the upload; how small codecs make that one is not known before.
        """
        training = self._recipe.training
        if self._pace is None or not (training.partial_work and training.batch_size):
            return None
        broadcast = sum(section.values.nbytes for section in self._coordinator.broadcast)
        vectors = base.trainable.nbytes + base.statistics.nbytes + base.counters.nbytes
        examples = self._pace.examples_in(
            action.worker_id,
            action.assignment_id,
            action.deadline_s - self._now_s,
            down_bytes=self._down_bytes[action.assignment_id],
            up_bytes=vectors + broadcast,
            level=self._level(action),
        )
        return max(1, int(examples / training.batch_size))

    def _arrives(self) -> bool:
        """Whether the next thing that happens is a result, not the alarm or a worker's going.

        What nobody waits for any more is forgotten: its worker was told to stop.
        """
        while self._arrivals:
            arrival_s, _, result = self._arrivals[0]
            if self._machine.is_open(result.assignment_id):
                return arrival_s <= min(self._alarm_s, self._presence.next_s)
            heappop(self._arrivals)
        return False

    def _job(self, action: act.SendAssignment) -> Job:
        coordinator, worker_id = self._coordinator, action.worker_id
        lane = self._lane(action)
        level = level_of_lane(lane) if coordinator.levels else FULL
        memory = coordinator.memories.get(memory_key(worker_id, level))
        seed = derive(self._recipe.seed, *action.seed_labels)
        if action.work is act.Work.QUERY:
            return QueryJob(
                assignment_id=action.assignment_id,
                worker_id=worker_id,
                base=coordinator.outcome_of(self._machine.done(act.Work.TRAIN), action.round),
                memory={},
            )
        if action.work is act.Work.PROBE:
            return EvaluateJob(
                assignment_id=action.assignment_id,
                worker_id=worker_id,
                base=coordinator.base_of(lane, (), action.round),
                memory=memory,
                probe_seed=seed,
                level=level,
            )
        if action.work is act.Work.EVALUATE:
            return EvaluateJob(
                assignment_id=action.assignment_id,
                worker_id=worker_id,
                base=coordinator.evaluated_by(worker_id, lane),
                memory=memory,
                level=level,
            )
        base = coordinator.base_of(lane, action.after, action.round)
        return TrainJob(
            assignment_id=action.assignment_id,
            worker_id=worker_id,
            round=action.round,
            seed=seed,
            base=base,
            base_digest=DIGEST,
            broadcast=coordinator.broadcast,
            memory=memory,
            level=level,
            max_steps=self._most_steps(action, base),
        )

    def _level(self, action: act.SendAssignment) -> str:
        return level_of_lane(self._lane(action)) if self._coordinator.levels else FULL

    def _lane(self, action: act.SendAssignment) -> str:
        """The chain's lane; for what is no training, that of the worker's level."""
        levels = self._coordinator.levels
        if action.work in (act.Work.TRAIN, act.Work.QUERY) or levels is None:
            return action.lane
        return levels.lane_of(action.worker_id, action.round)

    def _count(self, action: act.SendAssignment) -> int:
        """Count what a worker downloads for an assignment, in bytes."""
        if action.round != self._machine.round:
            return 0  # it was given it before, and has come back with what it holds
        coordinator, lane = self._coordinator, self._lane(action)
        if action.work is act.Work.QUERY:
            # The version that it becomes has other statistics, so nobody keeps it.
            return coordinator.downlink.fetch_once()
        if action.work is act.Work.EVALUATE:
            own = "" if coordinator.levels else coordinator.published_digest(action.worker_id)
            return coordinator.fetch(action.worker_id, lane, own=own)
        if action.work is act.Work.PROBE:
            return coordinator.fetch(action.worker_id, lane)
        return coordinator.fetch(
            action.worker_id,
            lane,
            own=coordinator.own_digest(action.lane, action.after),
            beside=sum(section.values.nbytes for section in coordinator.broadcast),
        )

    def _take(self, result: Result) -> None:
        """Tell the machine what became of an assignment."""
        if isinstance(result, Trained):
            self._take_update(result)
        elif isinstance(result, Evaluated):
            self._take_evaluation(result)
        elif isinstance(result, Queried):
            self._take_statistics(result)
        else:
            self._fail(result)

    def _take_evaluation(self, result: Evaluated) -> None:
        key, evaluation = result.assignment_id, result.evaluation
        if self._machine.slots[key].work is act.Work.PROBE:
            self._probes.counted(self._machine.slots[key].worker_id, evaluation.samples)
            loss, samples = evaluation.loss, evaluation.samples
            self._tell(
                ev.ProbeReported(at_s=self._now_s, assignment_id=key, loss=loss, samples=samples)
            )
            return
        worker_id = self._machine.slots[key].worker_id
        self._rounds[-1].worker_evaluations[worker_id] = evaluation
        fields: dict[str, Any] = evaluation.to_json()
        self._tell(ev.EvaluationReported(at_s=self._now_s, assignment_id=key, evaluation=fields))

    def _take_statistics(self, result: Queried) -> None:
        key = result.assignment_id
        try:
            self._coordinator.take_measured(result)
        except FedFleetError as error:
            self._fail(Failed(assignment_id=key, code=error.code, reason=error.message))
            return
        samples = result.measured.samples
        self._tell(ev.StatisticsReported(at_s=self._now_s, assignment_id=key, samples=samples))

    def _take_update(self, trained: Trained) -> None:
        try:
            lane = self._machine.slots[trained.assignment_id].lane
            self._coordinator.admit(trained, lane)
        except FedFleetError as error:
            self._fail(
                Failed(assignment_id=trained.assignment_id, code=error.code, reason=error.message)
            )
            return
        self._tell(
            ev.UpdateAccepted(
                at_s=self._now_s,
                assignment_id=trained.assignment_id,
                weight=trained.update.header.weight,
            )
        )

    def _fail(self, failed: Failed) -> None:
        self._probes.failed(self._machine.slots[failed.assignment_id], failed.code)
        self._tell(
            ev.AssignmentFailed(
                at_s=self._now_s,
                assignment_id=failed.assignment_id,
                code=failed.code,
                reason=failed.reason,
            )
        )

    # The coordinator's part

    def _select(self, action: act.SelectCohort) -> None:
        recipe, coordinator = self._recipe, self._coordinator
        drawing = Drawing(
            recipe.rounds,
            Ballot.of(
                action,
                coordinator.history,
                run_seed=derive(recipe.seed, "participation"),
                draw_seed=derive(recipe.seed, "cohort", action.round, action.draw),
            ),
        )
        probed = drawing.to_probe()
        if probed:
            self._tell(ev.ProbesSelected(at_s=self._now_s, workers=probed))
            return
        request = PlanRequest(
            action.round,
            action.candidates,
            action.size,
            drawing,
            coordinator.memory,
            lambda worker_id: self._probes.lane(worker_id, action.round),
        )
        plan = coordinator.plan(request)
        unknown = self._probes.to_probe(action, plan.workers)
        if unknown:
            self._tell(ev.ProbesSelected(at_s=self._now_s, workers=unknown))
            return
        lasts_s = training_deadline_s(
            recipe.rounds, coordinator.history, plan.chains, self._machine.attempt
        )
        self._tell(ev.cohort_selected(plan, self._now_s, drawing.corrections, lasts_s))

    def _fold(self, assignment_id: str) -> None:
        slot = self._machine.slots[assignment_id]
        staleness = self._machine.staleness(assignment_id)
        self._coordinator.fold(assignment_id, slot.lane, slot.correction, staleness)
        if assignment_id == slot.chain[-1]:
            self._coordinator.release(slot.chain)

    def _aggregate(self, action: act.Aggregate) -> None:
        lanes = {key: self._machine.slots[key].lane for key in action.assignment_ids}
        self._probes.closing(self._machine.slots.values())
        self._coordinator.remember(action, self._machine.cohort, self._machine.durations_s)
        made = self._coordinator.make_next(
            action.round, lanes, evaluate=action.evaluate, queries=action.queries
        )
        virtual_s = None if self._pace is None else self._now_s
        self._rounds.append(replace(made, virtual_s=virtual_s))
        self._tell(
            ev.RoundCommitted(
                at_s=self._now_s,
                version=action.round,
                digest=DIGEST,
                workers=self._presence.workers,
            )
        )


def _worker_of(result: Result) -> str:
    """Whose assignment a result is of."""
    return result.assignment_id.rpartition("/")[2]
