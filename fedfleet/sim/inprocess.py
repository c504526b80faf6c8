"""Drives the round machine in one process: same recipe, same halves, no network, virtual time.

With the same recipe and seed the versions are bit-identical to those of a deployed run whose
workers are ``worker-0`` to ``worker-(n-1)`` with shard i, on the same machine and with the same
number of threads per training (tests/integration/test_parity.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfleet.algorithms.base import Memory
from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.data.shard import Examples, load_examples
from fedfleet.errors import FedFleetError
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.card import card_of
from fedfleet.rounds.machine import RoundMachine
from fedfleet.rounds.metrics import mean_metrics
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.rounds.selection import select_cohort
from fedfleet.sim.downlink import SimulatedDownlink
from fedfleet.training.local import LocalTrainer
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state
from fedfleet.training.worker import LocalRun, LocalWorker
from fedfleet.types import Evaluation, ModelState, Section, Update, UpdateHeader
from fedfleet.wire.downlink import is_lossless
from fedfleet.wire.spare import spare_small
from fedfleet.wire.updates import decode_update
from fedfleet.wire.uplink import encode_uplink, split_memory


@dataclass(frozen=True, kw_only=True)
class SimulatedRound:
    """What one round came to.

    Args:
        weight: training samples behind the updates.
        metrics: sample-weighted mean of the workers' training metrics.
        evaluation: on the test split, where the recipe asks for it.
        bytes_up: payload bytes of the updates.
        bytes_down: payload bytes that the workers downloaded since the round before.
        worker_evaluations: by worker id, filled when the round closes.
    """

    round: int
    workers: tuple[str, ...]
    weight: float
    metrics: Mapping[str, float]
    evaluation: Evaluation | None
    bytes_up: int
    bytes_down: int
    worker_evaluations: dict[str, Evaluation] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A finished run. ``outcome`` is completed, failed or stopped."""

    outcome: str
    code: str
    reason: str
    state: ModelState
    rounds: tuple[SimulatedRound, ...]
    classes: tuple[str, ...]


def simulate(
    recipe: Recipe,
    data_dir: Path | None = None,
    on_round: Callable[[SimulatedRound], None] | None = None,
) -> Simulation:
    """Run a recipe to its end.

    Args:
        on_round: called as each round closes.

    Raises:
        FedFleetError: data or model cannot be had; a worker's failure fails its assignment only.
    """
    return _Driver(recipe, data_dir, on_round or (lambda _: None)).run()


class _Driver:
    def __init__(
        self,
        recipe: Recipe,
        data_dir: Path | None,
        on_round: Callable[[SimulatedRound], None],
    ) -> None:
        self._recipe = recipe
        self._data_dir = data_dir
        self._on_round = on_round
        self._card = card_of(recipe)
        self._trainer = LocalTrainer(self._card, recipe.training, recipe.evaluation)
        self._algorithm = make_algorithm(recipe.algorithm)
        self._machine = RoundMachine("sim", recipe.rounds, recipe.evaluation)
        self._state = initial_state(self._card, derive(recipe.seed, "initial"))
        self._served = self._state
        self._published: ModelState | None = None
        self._downlink = SimulatedDownlink(recipe, self._state)
        self._memory: Memory = self._algorithm.start(self._trainer.schema)
        self._sum = self._new_sum()
        self._workers: dict[str, LocalWorker] = {}
        self._memories: dict[str, Memory] = {}
        self._updates: dict[str, tuple[Update, Memory]] = {}
        self._sizes: dict[str, int] = {}
        self._rounds: list[SimulatedRound] = []
        self._todo: deque[act.Action] = deque()
        self._test: Examples | None = None
        if recipe.evaluation.coordinator:
            self._test = load_examples(
                recipe.data, "test", seed=recipe.seed, shard=None, data_dir=data_dir
            )
        count = recipe.data.workers or recipe.rounds.cohort
        self._fleet = tuple(f"worker-{i}" for i in range(count))
        self._now_s = 0.0
        self._alarm_s = 0.0

    def run(self) -> Simulation:
        """Carry out actions until none is left; then the next thing that happens is the alarm."""
        self._tell(ev.RunStarted(at_s=0.0))
        self._tell(ev.FleetChanged(at_s=0.0, workers=frozenset(self._fleet)))
        while self._machine.finish is None or self._todo:
            if self._todo:
                self._carry_out(self._todo.popleft())
            else:
                self._now_s = self._alarm_s
                self._tell(ev.DeadlinePassed(at_s=self._now_s, workers=self._fleet))
        finish = self._machine.finish
        return Simulation(
            outcome=finish.outcome,
            code=finish.code,
            reason=finish.reason,
            state=self._served,
            rounds=tuple(self._rounds),
            classes=self._card.classes,
        )

    def _tell(self, event: ev.Event) -> None:
        self._todo.extend(self._machine.handle(event))

    def _carry_out(self, action: act.Action) -> None:
        if isinstance(action, act.SelectCohort):
            seed = derive(self._recipe.seed, "cohort", action.round, action.draw)
            chosen = select_cohort(
                self._recipe.rounds,
                action.candidates,
                action.size,
                run_seed=derive(self._recipe.seed, "participation"),
                draw_seed=seed,
            )
            self._tell(ev.CohortSelected(at_s=self._now_s, workers=chosen))
        elif isinstance(action, act.SendAssignment):
            self._assignment(action)
        elif isinstance(action, act.WakeAt):
            self._alarm_s = action.at_s
        elif isinstance(action, act.FoldUpdate):
            self._fold(action.assignment_id)
        elif isinstance(action, act.Aggregate):
            self._aggregate(action)
        elif isinstance(action, act.CloseRound):
            self._updates.clear()
            self._sizes.clear()
            self._on_round(self._rounds[-1])

    # A worker's part

    def _assignment(self, action: act.SendAssignment) -> None:
        if not self._machine.is_open(action.assignment_id):
            return  # over-selected: the cohort is complete already
        seed = derive(self._recipe.seed, action.work.value, action.round, action.worker_id)
        try:
            if action.work is act.Work.TRAIN:
                self._train(action, seed)
            else:
                self._evaluate(action)
        except FedFleetError as error:
            self._tell(
                ev.AssignmentFailed(
                    at_s=self._now_s,
                    assignment_id=action.assignment_id,
                    code=error.code,
                    reason=error.message,
                )
            )

    def _train(self, action: act.SendAssignment, seed: int) -> None:
        kept = self._memories.get(action.worker_id, {})
        training_memory, codec_memory = split_memory(kept)
        result = self._worker(action.worker_id).train(
            self._downlink.fetch(action.worker_id),
            seed=seed,
            round=action.round,
            broadcast=self._broadcast(),
            memory=training_memory,
        )
        header = UpdateHeader(
            run_id="sim",
            round=action.round,
            assignment_id=action.assignment_id,
            worker_id=action.worker_id,
            base_digest="sim",
            schema_digest=self._trainer.schema.digest,
            weight=result.work.samples,
            steps=result.work.steps,
            lr_sum=result.work.lr_sum,
            metrics=result.work.metrics,
        )
        update, memory = self._send(Update(header, result.sections), codec_memory, seed)
        self._sum.check(update)
        self._updates[action.assignment_id] = (update, {**result.memory, **memory})
        self._tell(
            ev.UpdateAccepted(
                at_s=self._now_s, assignment_id=action.assignment_id, weight=header.weight
            )
        )

    def _send(self, update: Update, codec_memory: Memory, seed: int) -> tuple[Update, Memory]:
        """What the coordinator would decode of an update, and what the codec keeps of it."""
        wire = self._recipe.wire
        chain = spare_small(wire.uplink_chain, self._trainer.schema)
        key = update.header.assignment_id
        if is_lossless(chain):  # the bytes would come back as they are
            self._sizes[key] = sum(section.values.nbytes for section in update.sections)
            return update, {}
        encoded, kept = encode_uplink(update, wire, chain, codec_memory, derive(seed, "codec"))
        self._sizes[key] = len(encoded.payload)
        return decode_update(encoded.header, encoded.payload, chain), kept

    def _broadcast(self) -> tuple[Section, ...]:
        sections = self._algorithm.broadcast(self._trainer.schema, self._memory)
        self._downlink.count(sum(section.values.nbytes for section in sections))
        return sections

    def _evaluate(self, action: act.SendAssignment) -> None:
        base = self._downlink.fetch(action.worker_id, self._published)
        memory, _ = split_memory(self._memories.get(action.worker_id, {}))
        evaluation = self._worker(action.worker_id).evaluate(base, memory)
        self._rounds[-1].worker_evaluations[action.worker_id] = evaluation
        fields: dict[str, Any] = evaluation.to_json()
        self._tell(
            ev.EvaluationReported(
                at_s=self._now_s, assignment_id=action.assignment_id, evaluation=fields
            )
        )

    def _worker(self, worker_id: str) -> LocalWorker:
        if worker_id not in self._workers:
            recipe = self._recipe
            run = LocalRun(
                worker_id=worker_id,
                seed=recipe.seed,
                rounds=recipe.rounds.rounds,
                data=recipe.data,
                training=recipe.training,
                evaluation=recipe.evaluation,
                algorithm=recipe.algorithm,
                shard=int(worker_id.rpartition("-")[2]),
                data_dir=self._data_dir,
            )
            self._workers[worker_id] = LocalWorker(run, self._trainer)
        return self._workers[worker_id]

    # The coordinator's part

    def _new_sum(self) -> RoundSum:
        return RoundSum(self._recipe, self._algorithm, self._state, "sim", self._memory)

    def _fold(self, assignment_id: str) -> None:
        update, memory = self._updates[assignment_id]
        self._memories[update.header.worker_id] = memory
        if not self._sum.waits:
            self._sum.fold(update)
            # Only the header is needed from here on.
            self._updates[assignment_id] = (Update(update.header, ()), {})

    def _aggregate(self, action: act.Aggregate) -> None:
        updates = [self._updates[key][0] for key in action.assignment_ids]
        updates.sort(key=lambda update: update.header.worker_id)
        headers = [update.header for update in updates]
        if self._sum.waits:
            for update, weight in zip(updates, self._sum.weights(headers), strict=True):
                self._sum.fold(update, weight)
        outcome = self._sum.outcome(headers)
        self._state, self._memory = outcome.state, outcome.memory
        self._published = outcome.served
        self._served = outcome.served or outcome.state
        self._downlink.descend(self._state, action.round)
        self._sum = self._new_sum()
        evaluation = None
        if action.evaluate and self._test is not None:
            evaluation = self._trainer.evaluate(self._served, self._test)
        self._rounds.append(
            SimulatedRound(
                round=action.round,
                workers=tuple(header.worker_id for header in headers),
                weight=sum(header.weight for header in headers),
                metrics=mean_metrics(headers),
                evaluation=evaluation,
                bytes_up=sum(self._sizes.pop(key) for key in action.assignment_ids),
                bytes_down=self._downlink.take_bytes(),
            )
        )
        self._tell(
            ev.RoundCommitted(
                at_s=self._now_s, version=action.round, digest="sim", workers=self._fleet
            )
        )
