"""The coordinator's part of a simulated run: sums, versions and what workers start from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedfleet.algorithms.base import Memory
from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.algorithms.plan import MAIN, Plan, PlanRequest
from fedfleet.data.shard import Examples
from fedfleet.models.card import ModelCard
from fedfleet.rounds import actions as act
from fedfleet.rounds.history import History, split_history
from fedfleet.rounds.level_facts import without_levels
from fedfleet.rounds.levels import FULL
from fedfleet.rounds.metrics import mean_metrics
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.relay import relayed
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.rounds.run_levels import RunLevels
from fedfleet.rounds.selection import needs_history
from fedfleet.rounds.static_norm import (
    Measured,
    check_measured,
    level_statistics,
    with_measured,
)
from fedfleet.sim.downlink import KeptDownlink, SimulatedDownlink, digest_of
from fedfleet.sim.jobs import Queried, Trained
from fedfleet.sim.memories import Memories
from fedfleet.sim.outcome import SimulatedRound
from fedfleet.training.local import LocalTrainer
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state
from fedfleet.types import FloatVector, ModelState, Section

# Nobody reads the digest of a simulated version.
DIGEST = "sim"


def memory_key(worker_id: str, level: str) -> str:
    """Where what a worker keeps of a level is kept: at another width it means nothing."""
    return worker_id if level == FULL else f"{worker_id}@{level}"


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptCoordinator:
    """The coordinator between two rounds.

    Args:
        state: what the next round starts from.
        published: the last version where that is another state.
        memory: the algorithm's coordinator half's, and the history of the workers.
        narrow: the downlinks of the narrower levels, by lane.
        levels: the statistics of the state's narrower slices.
    """

    state: ModelState
    published: ModelState | None
    memory: Memory
    downlink: KeptDownlink
    narrow: Mapping[str, KeptDownlink] = field(default_factory=dict)
    levels: Mapping[str, FloatVector] = field(default_factory=dict)


class SimulatedCoordinator:
    """Holds one model's worth of sums, as the deployed one does, and keeps what workers keep.

    Args:
        trainer: evaluates versions.
        test: the test split, where the recipe asks for its evaluation.
        levels: of a recipe that has some.

    Attributes:
        served: the last version.
        level_statistics: of its narrower slices, where they were measured.
    """

    def __init__(
        self,
        recipe: Recipe,
        card: ModelCard,
        trainer: LocalTrainer,
        test: Examples | None,
        levels: RunLevels | None = None,
    ) -> None:
        self.levels = levels
        self._queried = levels.queried if levels else {}
        self._recipe = recipe
        self._trainer = trainer
        self._test = test
        self._algorithm = make_algorithm(recipe.algorithm)
        self._state = initial_state(card, derive(recipe.seed, "initial"))
        self.served = self._state
        self.level_statistics: Mapping[str, FloatVector] = {}
        self._published: ModelState | None = None
        self._memory: Memory = self._algorithm.start(trainer.schema)
        self.history = History()
        self._updates: dict[str, Trained] = {}
        # Of earlier rounds whose assignments live on: the version, and what workers started from.
        self._earlier: dict[int, tuple[ModelState, ModelState]] = {}
        self.memories = Memories()
        self.downlink = SimulatedDownlink(recipe, self._state)
        self._widths = levels.widths(1) if levels else None
        # A narrower level's workers hold versions of their own width.
        self._narrow = {
            lane: SimulatedDownlink(recipe, width.slice.cut(self._state))
            for lane, width in (self._widths or {}).items()
            if lane != MAIN
        }
        self._begin(1)

    def _begin(self, round: int) -> None:
        """Make ready for the round that starts from the state."""
        self._round = round
        if self.levels:
            self._widths = self.levels.widths(round)
        self._lanes: dict[str, ModelState] = {}
        self._measured: dict[str, Measured] = {}
        self._digests: dict[str, str] = {}  # by lane; of the run's own, what is published
        self._sum = RoundSum(self._recipe, self._algorithm, self._state, self._memory, self._widths)
        self.broadcast: tuple[Section, ...] = self._algorithm.broadcast(
            self._trainer.schema, self._memory
        )

    def keep(self) -> KeptCoordinator:
        """What ``go_on`` needs beside what the workers keep."""
        return KeptCoordinator(
            state=self._state,
            published=self._published,
            memory={**self._memory, **self.history.to_memory(), **self._book()},
            downlink=self.downlink.keep(),
            narrow={lane: downlink.keep() for lane, downlink in self._narrow.items()},
            levels=self.level_statistics,
        )

    def _book(self) -> Memory:
        """What is known of the workers' levels, where they are measured."""
        measured = self.levels.measured if self.levels else None
        return measured.book.to_memory() if measured else {}

    def go_on(self, kept: KeptCoordinator, round: int) -> None:
        """Be as it was when that was kept.

        Args:
            round: the one that comes.
        """
        self._state, self._published = kept.state, kept.published
        if self.levels and self.levels.measured:
            self.levels.measured.load(kept.memory)
        self._memory, self.history = split_history(without_levels(kept.memory))
        self.served, self.level_statistics = kept.published or kept.state, kept.levels
        self.downlink.go_on(kept.downlink, kept.state)
        self._begin(round)
        for lane, narrow in self._narrow.items():
            narrow.go_on(kept.narrow[lane], self._sliced(lane))

    def _sliced(self, lane: str) -> ModelState:
        """The state at a level."""
        assert self._widths is not None
        return self._widths[lane].slice.cut(self._state)

    def base_of(self, lane: str, after: Sequence[str], round: int) -> ModelState:
        """What an assignment starts from.

        Args:
            lane, after, round: as in ``SendAssignment``.
        """
        if round != self._round:
            return self._earlier[round][1]
        if lane in self._narrow:
            return self._narrow[lane].base
        return self.own_start(lane, after) or self.downlink.base

    def evaluated_by(self, worker_id: str, lane: str) -> ModelState:
        """What a worker evaluates.

        Args:
            lane: of its level.
        """
        if lane in self._narrow:
            return self._narrow[lane].base
        return self.published_to(worker_id) or self.downlink.base

    def fetch(self, worker_id: str, lane: str, *, own: str = "", beside: int = 0) -> int:
        """Count what a worker downloads, in bytes; as ``SimulatedDownlink.fetch``.

        Args:
            lane: of its level.
        """
        for other, downlink in ((MAIN, self.downlink), *self._narrow.items()):
            if self._narrow and other != lane:
                downlink.drop(worker_id)
        if lane in self._narrow:
            return self._narrow[lane].fetch(worker_id, beside=beside)
        return self.downlink.fetch(worker_id, own=own, beside=beside)

    def keep_rounds(self, rounds: Collection[int]) -> None:
        """Forget what earlier rounds started from, but for these."""
        self._earlier = {round: kept for round, kept in self._earlier.items() if round in rounds}

    def plan(self, request: PlanRequest) -> Plan:
        """Who trains in the round."""
        return self._algorithm.plan(request)

    @property
    def memory(self) -> Memory:
        """The algorithm's."""
        return self._memory

    def own_start(self, lane: str, after: Sequence[str]) -> ModelState | None:
        """What an assignment starts from that nobody else has; None where it is the round's base.

        Args:
            lane, after: as in ``SendAssignment``.
        """
        if lane in self._narrow or (lane == MAIN and not after):
            return None
        if after:
            earlier = [self._updates[key].update for key in after]
            return relayed(self._algorithm, self._state, self._memory, lane, earlier)
        if lane not in self._lanes:
            self._lanes[lane] = relayed(self._algorithm, self._state, self._memory, lane, ())
        return self._lanes[lane]

    def published_to(self, worker_id: str) -> ModelState | None:
        """What a worker evaluates, where that is not the round's base: its lane's model."""
        lane = self._algorithm.lane_of(worker_id, self._memory)
        return self._published if lane == MAIN else self.own_start(lane, ())

    def own_digest(self, lane: str, after: Sequence[str]) -> str:
        """The name of ``own_start``; empty where there is none."""
        if after:
            return after[-1]  # nobody holds it, so any name will do
        start = self.own_start(lane, ())
        return "" if start is None else self._digest(lane, start)

    def published_digest(self, worker_id: str) -> str:
        """The name of ``published_to``; empty where there is none."""
        lane = self._algorithm.lane_of(worker_id, self._memory)
        state = self.published_to(worker_id)
        return "" if state is None else self._digest(lane, state)

    def _digest(self, lane: str, state: ModelState) -> str:
        if lane not in self._digests:
            self._digests[lane] = digest_of(state)
        return self._digests[lane]

    def admit(self, trained: Trained, lane: str) -> None:
        """Check an update and hold it until it is folded; raises what ``RoundSum.check`` raises."""
        self._sum.check(trained.update, DIGEST, lane)
        self._updates[trained.assignment_id] = trained

    def fold(self, assignment_id: str, lane: str, correction: float, staleness: int) -> None:
        """Add an update that was admitted; from now on it counts, for its worker too.

        Args:
            lane, correction, staleness: as for ``RoundSum.fold``.
        """
        trained = self._updates[assignment_id]
        header = trained.update.header
        self.memories.put(memory_key(header.worker_id, header.level), trained.memory)
        if not self._sum.waits:
            self._sum.fold(trained.update, lane=lane, correction=correction, staleness=staleness)

    def release(self, assignment_ids: Sequence[str]) -> None:
        """Forget the values of folded updates that nobody starts from any more."""
        if not self._sum.waits:
            for key in self._updates.keys() & set(assignment_ids):
                self._updates[key] = self._updates[key].without_values()

    def remember(
        self, action: act.Aggregate, asked: Sequence[str], durations_s: Mapping[str, float]
    ) -> None:
        """Take a round into the history of the workers, where the selection looks back.

        Args:
            asked: workers that were given an assignment to train.
            durations_s: of those whose updates count.
        """
        headers = [self._updates[key].update.header for key in action.assignment_ids]
        if self.levels and self.levels.measured:
            self.levels.measured.after(headers, durations_s)
            self.levels.measured.advance()
        if needs_history(self._recipe.rounds):
            self.history = self.history.after(action.round, asked, headers, durations_s)

    def outcome_of(self, assignment_ids: Collection[str], round: int) -> ModelState:
        """What the round's updates lead to, before it is published."""
        done = sorted((self._updates[key] for key in assignment_ids), key=_by_worker)
        return self._sum.outcome([one.update.header for one in done], round).state

    def take_measured(self, result: Queried) -> None:
        """Take what a worker measured of it; raises what ``check_measured`` raises."""
        schema, most = self._trainer.schema, self._recipe.rounds.max_weight
        check_measured(result.measured, schema, most, self._queried)
        self._measured[result.assignment_id] = result.measured

    def make_next(
        self,
        round: int,
        lanes: Mapping[str, str],
        *,
        evaluate: bool,
        queries: Collection[str] = (),
    ) -> SimulatedRound:
        """Make the next version and say what the round came to.

        Args:
            lanes: of the assignments whose updates the round closes with, by their ids.
            queries: assignments whose statistics the version takes.
        """
        done = sorted((self._updates[key] for key in lanes), key=_by_worker)
        headers = [one.update.header for one in done]
        if self._sum.waits:
            for one, weight in zip(done, self._sum.weights(headers), strict=True):
                self._sum.fold(one.update, weight, lane=lanes[one.assignment_id])
        outcome = self._sum.outcome(headers, round, lambda earlier: self._earlier[earlier][0])
        self._earlier[round] = (self._state, self.downlink.base)
        by_worker = sorted(queries, key=lambda key: key.rpartition("/")[2])
        measured = [self._measured[key] for key in by_worker]
        policy = self._recipe.algorithm.statistics
        outcome = replace(outcome, state=with_measured(outcome.state, measured, policy))
        self.level_statistics = level_statistics(measured, self._queried, policy)
        self._state, self._memory = outcome.state, outcome.memory
        self._published = outcome.served
        self.served = outcome.served or outcome.state
        self.downlink.descend(self._state, round)
        self._begin(round + 1)
        for lane, narrow in self._narrow.items():
            narrow.descend(self._sliced(lane), round)
        self._updates.clear()
        evaluation = None
        if evaluate and self._test is not None:
            evaluation = self._trainer.evaluate(
                self.served, self._test, confusion=True, scores=True
            )
        return SimulatedRound(
            round=round,
            workers=tuple(header.worker_id for header in headers),
            weight=sum(header.weight for header in headers),
            metrics=mean_metrics(headers),
            staleness=tuple(round - header.round for header in headers),
            evaluation=evaluation,
            bytes_up=sum(one.upload_bytes for one in done),
            levels={one.worker_id: one.level for one in headers if one.level != FULL},
            bytes_down=self.downlink.take_bytes()
            + sum(narrow.take_bytes() for narrow in self._narrow.values()),
        )


def _by_worker(one: Trained) -> tuple[str, str]:
    """The order of a round's updates: in every driver the same."""
    return one.update.header.worker_id, one.assignment_id
