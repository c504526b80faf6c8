"""What holds for every algorithm of the catalog, whatever it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import header, state
from torch import nn

from fedfleet.aggregation.accumulator import Aggregate, UpdateAccumulator
from fedfleet.algorithms.base import (
    OWN_METRIC,
    Algorithm,
    LocalWork,
    Memory,
    Outcome,
    Received,
    RoundResult,
    Trained,
)
from fedfleet.algorithms.catalog import CATALOG, AlgorithmConfig, make_algorithm
from fedfleet.algorithms.fedbn import local_places
from fedfleet.algorithms.plan import MAIN, Plan, PlanRequest
from fedfleet.rounds.relay import relayed
from fedfleet.types import (
    Array,
    FloatVector,
    Kind,
    ModelState,
    ParamSpec,
    Schema,
    Section,
    Update,
    UpdateHeader,
)
from fedfleet.wire.limits import MAX_METRICS
from fedfleet.wire.weights import decode_arrays, encode_arrays

# What has no default, and options that are another way through a half.
OPTIONS: Mapping[str, Mapping[str, object]] = {
    "fedprox": {"mu": 0.1},
    "fedavg/uniform": {"weighting": "uniform"},
    "fedavgm/heavy-ball": {"nesterov": False},
    "scaffold/I": {"option": "I"},
    "feddyn/start": {"serve": "start"},
    "fedgwc": {"tolerance": 1.0},
    "fedseq": {"share": 1.0, "min_examples": 1},
    "fedseq/chains": {"share": 1.0, "min_examples": 400},
    "fedseq/inter": {"share": 1.0, "min_examples": 400, "interval": 2},
}
# A layer, its batch normalisation, a scalar.
SCHEMA = Schema(
    (
        ParamSpec("dense.weight", (3, 2), Kind.TRAINABLE),
        ParamSpec("norm.weight", (3,), Kind.TRAINABLE),
        ParamSpec("norm.bias", (3,), Kind.TRAINABLE),
        ParamSpec("norm.running_mean", (3,), Kind.STATISTIC),
        ParamSpec("norm.running_var", (3,), Kind.STATISTIC),
        ParamSpec("norm.num_batches_tracked", (), Kind.COUNTER),
        ParamSpec("scale", (), Kind.TRAINABLE),
    )
)
ROUNDS = 3
MAX_WEIGHT = 1 << 20

NAMES = [*CATALOG, *(name for name in OPTIONS if "/" in name)]
# Several workers add to a chain's counters; the bank's mean is of models, not of updates.
CHAINED = ("fedseq/chains", "fedseq/inter")

every_algorithm = pytest.mark.parametrize("name", NAMES)
cohorts = st.lists(st.integers(1, 500), min_size=1, max_size=4)
seeds = st.integers(0, 1 << 20)
few = settings(max_examples=8)


def make(name: str) -> Algorithm:
    plain = name.partition("/")[0]
    options = CATALOG[plain][0](**OPTIONS.get(name, {}))
    return make_algorithm(AlgorithmConfig(name=plain, options=options))


def frozen(array: Array) -> Array:
    copy: Array = array.copy()
    copy.flags.writeable = False
    return copy


def frozen_state(given: ModelState) -> ModelState:
    return ModelState(SCHEMA, *(frozen(given.vector(kind)) for kind in Kind))


def frozen_memory(memory: Memory) -> Memory:
    return {name: frozen(array) for name, array in memory.items()}


def through_a_file(memory: Memory) -> Memory:
    """What the journal, or a device's disk, gives back."""
    found = decode_arrays(encode_arrays(memory))
    assert {name: (a.dtype, a.shape) for name, a in found.items()} == {
        name: (a.dtype, a.shape) for name, a in memory.items()
    }
    return found


@dataclass
class Run:
    """Rounds in which a worker's training is a walk that the seed draws.

    Args:
        algorithm: called before each call of a half.
        keep: what becomes of a memory between rounds.
        order: in which a round's updates are added.
        still: training changes nothing.
    """

    algorithm: Callable[[], Algorithm]
    samples: Sequence[int]
    seed: int
    keep: Callable[[Memory], Memory] = dict
    order: Callable[[Iterable[int]], Iterable[int]] = sorted
    still: bool = False

    def __post_init__(self) -> None:
        self.outcome = Outcome(
            frozen_state(state(SCHEMA, self.seed)), frozen_memory(self.algorithm().start(SCHEMA))
        )
        self.memories: dict[int, Memory] = {}
        self.aggregates: Mapping[str, Aggregate] = {}
        self.updates: list[Update] = []

    def rounds(self, count: int = ROUNDS) -> Run:
        for round in range(count):
            self.round(round)
        return self

    def plan(self, round: int) -> Plan:
        """All workers, as the algorithm wants them."""
        names = tuple(f"w{place}" for place in range(len(self.samples)))

        def draw(candidates: Sequence[str], size: int) -> tuple[str, ...]:
            return tuple(sorted(candidates)[:size])

        request = PlanRequest(round + 1, names, len(names), draw, self.outcome.memory)
        return self.algorithm().plan(request)

    def round(self, round: int) -> None:
        base, memory = frozen_state(self.outcome.state), self.outcome.memory
        sent = {
            section.name: frozen(section.values)
            for section in self.algorithm().broadcast(SCHEMA, memory)
        }
        self.updates, lanes = [], {}
        for chain in self.plan(round).chains:
            before: list[Update] = []
            for worker in chain.workers:
                start = relayed(self.algorithm(), base, memory, chain.lane, before)
                before.append(self._update(frozen_state(start), sent, int(worker[1:]), round))
                lanes[worker] = chain.lane
            self.updates += before
        self.updates.sort(key=lambda one: one.header.worker_id)
        headers = [one.header for one in self.updates]
        self.aggregates = self._sums(headers, memory, lanes)
        result = RoundResult(
            base, self.aggregates, headers, memory, len(self.samples) + 1, lanes, round + 1
        )
        outcome = self.algorithm().step(result)
        self.outcome = replace(outcome, memory=frozen_memory(self.keep(outcome.memory)))

    def _sums(
        self, headers: Sequence[UpdateHeader], memory: Memory, lanes: Mapping[str, str]
    ) -> Mapping[str, Aggregate]:
        algorithm = self.algorithm()
        totals = {
            lane: UpdateAccumulator(
                SCHEMA,
                policy="average",
                max_updates=len(self.updates),
                max_weight=MAX_WEIGHT,
                extra=algorithm.sections,
            )
            for lane in sorted(set(lanes.values()))
        }
        if algorithm.weighs_together:
            weights = algorithm.weights(headers, memory)
        else:
            weights = [self.algorithm().weight(one) for one in headers]
        for place in self.order(range(len(self.updates))):
            algorithm.check_header(headers[place])
            total = totals[lanes[headers[place].worker_id]]
            total.check(self.updates[place])
            total.add(self.updates[place], weights[place])
        return {lane: _frozen_aggregate(total.result()) for lane, total in totals.items()}

    def _update(
        self, base: ModelState, sent: Mapping[str, FloatVector], place: int, round: int
    ) -> Update:
        random = np.random.default_rng((self.seed, place, round))
        received = Received(base, sent, self.memories.get(place, {}), round + 1)
        start = frozen_state(self.algorithm().start_from(received))
        end = frozen_state(start if self.still else self._train(received, start, random))
        work = LocalWork(
            samples=self.samples[place],
            steps=2 + place,
            lr_sum=0.1,
            reach=0.1 + 0.1 * place,
            epoch_losses=tuple(random.uniform(0, 3, 2)),
        )
        gradient = frozen(np.float32(0.1) * start.trainable)
        confidences = random.dirichlet(np.ones(4))
        trained = Trained(start, end, work, lambda: gradient, lambda: confidences)
        finished = self.algorithm().finish(received, trained)
        self.memories[place] = frozen_memory(self.keep(finished.memory))
        made = header(
            SCHEMA,
            worker_id=f"w{place}",
            round=round + 1,
            weight=float(self.samples[place]),
            metrics=dict(finished.metrics),
        )
        return Update(made, finished.sections)

    def _train(
        self, received: Received, start: ModelState, random: np.random.Generator
    ) -> ModelState:
        params = [
            nn.Parameter(torch.tensor(start.trainable[place].reshape(param.shape)))
            for param, place in SCHEMA.layout(Kind.TRAINABLE)
        ]
        adjust = self.algorithm().adjuster(received)
        for _ in range(2):
            for param in params:
                param.grad = torch.tensor(random.normal(size=tuple(param.shape)), dtype=param.dtype)
            if adjust is not None:
                with torch.no_grad():
                    adjust(params)
            for param in params:
                assert param.grad is not None
                param.data -= 0.05 * param.grad
        return ModelState(
            SCHEMA,
            torch.cat([param.detach().reshape(-1) for param in params]).numpy(),
            random.uniform(0.1, 2, start.statistics.shape).astype(np.float32),
            start.counters + 2,
        )


def _frozen_aggregate(found: Aggregate) -> Aggregate:
    return replace(
        found,
        means={name: frozen(mean) for name, mean in found.means.items()},
        statistics=frozen(found.statistics),
        counters=frozen(found.counters),
    )


def bytes_of(run: Run) -> list[bytes]:
    """Everything that a run leaves: on the coordinator and on its workers."""
    outcome = run.outcome
    states = [one for one in (outcome.state, outcome.served) if one is not None]
    memories = [outcome.memory, *(run.memories[place] for place in sorted(run.memories))]
    return [
        *(one.vector(kind).tobytes() for one in states for kind in Kind),
        *(
            name.encode() + array.tobytes()
            for memory in memories
            for name, array in sorted(memory.items())
        ),
    ]


@every_algorithm
@given(cohorts, seeds)
@few
def test_a_first_round_that_changes_nothing_is_a_fixed_point(
    name: str, samples: list[int], seed: int
) -> None:
    algorithm = make(name)
    run = Run(lambda: algorithm, samples, seed, still=True)
    base = run.outcome.state

    run.rounds(1)

    for found in (run.outcome.state, run.outcome.served or run.outcome.state):
        np.testing.assert_array_equal(found.trainable, base.trainable)
        np.testing.assert_allclose(found.statistics, base.statistics, rtol=1e-6)
        np.testing.assert_array_equal(found.counters, base.counters)


@every_algorithm
@given(cohorts, seeds, st.randoms(use_true_random=False))
@few
def test_order_of_updates_changes_no_bit(
    name: str, samples: list[int], seed: int, random: object
) -> None:
    algorithm = make(name)

    def shuffled(places: Iterable[int]) -> list[int]:
        found = list(places)
        random.shuffle(found)  # type: ignore[attr-defined]  # hypothesis's Random
        return found

    in_order = Run(lambda: algorithm, samples, seed).rounds()

    assert bytes_of(in_order) == bytes_of(
        Run(lambda: algorithm, samples, seed, order=shuffled).rounds()
    )


@every_algorithm
@given(cohorts, seeds)
@few
def test_memory_comes_back_from_a_file_as_it_was(name: str, samples: list[int], seed: int) -> None:
    algorithm = make(name)

    kept = Run(lambda: algorithm, samples, seed).rounds()

    assert bytes_of(kept) == bytes_of(
        Run(lambda: algorithm, samples, seed, keep=through_a_file).rounds()
    )


@every_algorithm
@given(cohorts, seeds)
@few
def test_halves_keep_nothing_between_calls(name: str, samples: list[int], seed: int) -> None:
    algorithm = make(name)
    before = {key: repr(value) for key, value in vars(algorithm).items()}

    one = Run(lambda: algorithm, samples, seed).rounds()

    assert bytes_of(one) == bytes_of(Run(lambda: make(name), samples, seed).rounds())
    assert {key: repr(value) for key, value in vars(algorithm).items()} == before


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CHAINED])
@given(cohorts, seeds)
@few
def test_statistics_and_counters_are_sent_as_values_and_taken_as_they_are(
    name: str, samples: list[int], seed: int
) -> None:
    """``Run`` gives only read-only arrays, so what is given is not changed either."""
    algorithm = make(name)
    run = Run(lambda: algorithm, samples, seed).rounds(ROUNDS - 1)
    base = run.outcome.state

    run.round(ROUNDS - 1)

    own = name == "fedbn"  # whose are of the device
    after = run.outcome.state
    taken = base.statistics if own else run.aggregates[MAIN].statistics
    if name == "fedasync":  # which mixes models, by 0.6
        before = base.statistics.astype(np.float64)
        taken = (before + 0.6 * (taken - before)).astype(np.float32)
    np.testing.assert_array_equal(after.statistics, taken)
    np.testing.assert_array_equal(after.counters, base.counters if own else base.counters + 2)
    assert after.counters.dtype == np.int64


@every_algorithm
@given(cohorts, seeds)
@few
def test_updates_have_the_sections_that_were_announced_in_the_wires_types(
    name: str, samples: list[int], seed: int
) -> None:
    algorithm = make(name)
    run = Run(lambda: algorithm, samples, seed).rounds(2)

    for update in run.updates:
        sections = [one for one in update.sections if isinstance(one, Section)]
        assert [one.name for one in sections] == [
            *(kind.value for kind in Kind),
            *algorithm.sections,
        ]
        assert all(one.values.dtype == one.kind.dtype for one in sections)
        assert all(one.elements == SCHEMA.elements(one.kind) for one in sections)
        # Else they would be averaged into what is said of the version.
        assert all(one.startswith(OWN_METRIC) for one in update.header.metrics)
        assert len(update.header.metrics) < MAX_METRICS - 20
    for one in algorithm.broadcast(SCHEMA, run.outcome.memory):
        assert one.values.dtype == np.float32
        assert one.elements == SCHEMA.elements(Kind.TRAINABLE)


@every_algorithm
@given(cohorts, seeds)
@few
def test_weights_are_above_zero_and_finite(name: str, samples: list[int], seed: int) -> None:
    algorithm = make(name)
    run = Run(lambda: algorithm, samples, seed).rounds()
    headers = [one.header for one in run.updates]

    weights = np.array(algorithm.weights(headers, run.outcome.memory))

    assert np.isfinite(weights).all()
    assert (weights > 0).all()
    if not algorithm.weighs_together:
        assert weights.tolist() == [algorithm.weight(one) for one in headers]


def test_the_laws_are_held_against_batch_normalisation_too() -> None:
    assert local_places(SCHEMA).tolist() == [6, 7, 8, 9, 10, 11]
