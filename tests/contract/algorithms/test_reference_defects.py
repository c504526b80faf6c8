"""Defects of known implementations (algorithms.md section 6), each as a test that ours passes."""

from __future__ import annotations

import numpy as np
import pytest
from quadratics import SCALAR, Fleet, Quadratic, pair, wide
from samples import SCHEMA, header, sections, state

from fedfleet.aggregation.accumulator import Aggregate, UpdateAccumulator
from fedfleet.algorithms.base import Algorithm, LocalWork, Memory, Received, RoundResult, Trained
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.fedbn import local_places
from fedfleet.algorithms.feddyn import FedDyn, FedDynOptions
from fedfleet.algorithms.fedopt import FedAdam, FedAvgM, FedAvgMOptions, FedOptOptions
from fedfleet.algorithms.fedprox import FedProx, FedProxOptions
from fedfleet.algorithms.plan import MAIN
from fedfleet.algorithms.scaffold import Scaffold, ScaffoldOptions
from fedfleet.training.config import TrainingConfig
from fedfleet.types import Kind, ParamSpec, Schema, Update

OPTIMUM = 10 / 11
SCAFFOLD = Scaffold(ScaffoldOptions())
NONE = np.zeros(0, np.float32)


def step_of_one(algorithm: Algorithm, memory: Memory) -> float:
    aggregate = Aggregate({"trainable": np.ones(1)}, NONE, np.zeros(0, np.int64), 1, 1.0)
    outcome = algorithm.step(RoundResult(wide(0.0), {MAIN: aggregate}, (), memory, 1))
    return float(outcome.state.trainable[0])


def test_defect_flower_fedadam_corrects_the_bias_with_a_wrong_exponent() -> None:
    algorithm = FedAdam(FedOptOptions(server_lr=0.1, tau=1e-3))
    from_zero = {"fedopt.m": np.zeros(1), "fedopt.v": np.zeros(1)}

    first = step_of_one(algorithm, from_zero)

    assert first == pytest.approx(0.0990099, abs=5e-8)
    assert first != pytest.approx(0.0735109, abs=1e-3)


def test_defect_flower_fedadam_squares_begin_at_zero() -> None:
    assert FedAdam(FedOptOptions(tau=0.5)).start(SCALAR)["fedopt.v"].tolist() == [0.25]


def test_defect_flower_fedavgm_has_no_nesterov() -> None:
    algorithm = FedAvgM(FedAvgMOptions(beta=0.5))

    assert step_of_one(algorithm, algorithm.start(SCALAR)) == 1.5


def fold(updates: list[Update]) -> Aggregate:
    total = UpdateAccumulator(SCHEMA, policy="average", max_updates=9, max_weight=99)
    for one in updates:
        total.add(one, one.header.weight)
    return total.result()


def sent(seed: int, weight: float, counters: list[int]) -> Update:
    values = {kind: state(seed=seed).vector(kind) for kind in Kind}
    values[Kind.COUNTER] = np.array(counters, np.int64)
    return Update(header(worker_id=f"w{seed}", weight=weight), sections(SCHEMA, values))


def test_defect_flower_fedadam_sends_buffers_through_the_moments() -> None:
    algorithm = FedAdam(FedOptOptions())
    aggregate = fold([sent(1, 1.0, [5]), sent(2, 3.0, [9])])

    outcome = algorithm.step(
        RoundResult(state(), {MAIN: aggregate}, (), algorithm.start(SCHEMA), 2)
    )

    np.testing.assert_array_equal(outcome.state.statistics, aggregate.statistics)
    assert {array.size for array in outcome.memory.values()} == {SCHEMA.elements(Kind.TRAINABLE)}


def test_defect_flower_aggregate_averages_integer_counters_in_floating_point() -> None:
    updates = [sent(1, 1.0, [2**53 - 2]), sent(2, 3.0, [2**53 - 1])]

    following = (
        FedAvg(FedAvgOptions()).step(RoundResult(state(), {MAIN: fold(updates)}, (), {}, 2)).state
    )

    assert following.counters.dtype == np.int64
    assert following.counters.tolist() == [2**53 - 1]


def test_defect_niid_bench_of_flower_starts_variates_at_the_weights_for_a_late_joiner() -> None:
    workers = [Quadratic(1.0, 0.0), Quadratic(10.0, 1.0), Quadratic(4.0, -3.0)]
    fleet = Fleet(SCAFFOLD, workers, 5.0)
    for _ in range(60):
        fleet.round([0, 1])
    assert workers[2].memory == {}

    fleet.rounds(250)

    best = (10.0 - 12.0) / 15.0
    assert fleet.x == pytest.approx(best, abs=1e-10)


def test_defect_niid_bench_of_flower_weighs_variates_by_samples() -> None:
    workers = [Quadratic(1.0, 0.0, samples=90), Quadratic(10.0, 1.0, samples=10)]

    assert Fleet(SCAFFOLD, workers, 5.0).rounds(150).x == pytest.approx(OPTIMUM, abs=1e-10)


def test_defect_niid_bench_of_flower_divides_by_the_steps_under_momentum() -> None:
    training = TrainingConfig(lr=0.002, momentum=0.9)

    fleet = Fleet(SCAFFOLD, pair(training=training), 5.0).rounds(200)

    assert fleet.x == pytest.approx(OPTIMUM, abs=1e-8)


def test_defect_niid_bench_variates_cover_buffers() -> None:
    elements = SCHEMA.elements(Kind.TRAINABLE)
    received = Received(state(seed=1), {"control": np.zeros(elements, np.float32)}, {})
    work = LocalWork(samples=1, steps=1, lr_sum=0.1, reach=0.1)
    trained = Trained(state(seed=1), state(seed=2), work, lambda: state().trainable)

    finished = SCAFFOLD.finish(received, trained)

    assert finished.sections[-1].elements == elements
    assert {array.size for array in finished.memory.values()} == {elements}
    np.testing.assert_array_equal(finished.sections[1].values, state(seed=2).statistics)


def test_defect_fedseq_feddyn_has_a_linear_term_without_gradient() -> None:
    """Without it, FedDyn is FedProx, whose fixed point is .6451613."""
    fleet = Fleet(FedDyn(FedDynOptions(alpha=1.0)), pair(steps=0), 5.0).rounds(120)

    assert fleet.x == pytest.approx(OPTIMUM, abs=1e-9)


def test_defect_fedseq_feddyn_moves_the_kept_gradient_with_every_batch() -> None:
    worker = Quadratic(2.0, 1.0, steps=7)
    fleet = Fleet(FedDyn(FedDynOptions(alpha=0.5)), [worker], 3.0)

    fleet.round()

    assert worker.memory["feddyn.own"][0] == pytest.approx(-0.5 * (fleet.served - 3.0), rel=1e-12)


def test_defect_pfllib_takes_the_buffers_of_one_worker() -> None:
    updates = [sent(1, 1.0, [5]), sent(2, 3.0, [9])]

    following = (
        FedAvg(FedAvgOptions()).step(RoundResult(state(), {MAIN: fold(updates)}, (), {}, 2)).state
    )

    first, second = (state(seed=seed).statistics.astype(np.float64) for seed in (1, 2))
    np.testing.assert_allclose(following.statistics, (first + 3 * second) / 4, rtol=1e-6)


def test_defect_fedbn_knows_batch_normalisation_by_a_piece_of_the_name() -> None:
    schema = Schema(
        (
            ParamSpec("layer1.downsample.1.weight", (2,), Kind.TRAINABLE),
            ParamSpec("layer1.downsample.1.running_mean", (2,), Kind.STATISTIC),
            ParamSpec("subnet.weight", (3,), Kind.TRAINABLE),  # holds the letters bn
        )
    )

    assert local_places(schema).tolist() == [0, 1]


def test_defect_fedseq_prox_is_added_behind_the_momentum_buffer() -> None:
    worker = Quadratic(1.0, 0.0, steps=2, training=TrainingConfig(lr=0.1, momentum=0.5))

    fleet = Fleet(FedProx(FedProxOptions(mu=1.0)), [worker], 1.0).rounds(1)

    # v = 1, w = .9; then v = .5 + (.9 + 1 (.9 - 1)) = 1.3 and w = .77. The term has no momentum
    # of its own until a third step, so one more tells the two apart.
    assert fleet.x == pytest.approx(0.77, rel=1e-12)
    worker = Quadratic(1.0, 0.0, steps=3, training=TrainingConfig(lr=0.1, momentum=0.5))
    fleet = Fleet(FedProx(FedProxOptions(mu=1.0)), [worker], 1.0).rounds(1)
    # v = .65 + (.77 - .23) = 1.19; behind the buffer it would be .5 (.5 + .9) + .77 - .23 = 1.24.
    assert fleet.x == pytest.approx(0.77 - 0.119, rel=1e-12)
