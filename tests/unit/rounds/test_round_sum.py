from __future__ import annotations

import itertools

import numpy as np
import pytest
from samples import BASE_DIGEST, SCHEMA, state, update

from fedfleet.algorithms.base import Outcome, RoundResult
from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.errors import FedFleetError
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.types import Update

BASE = state(seed=9)


def recipe(tail: str = "") -> Recipe:
    return parse_recipe(
        f"""
        name = "m"
        model = {{architecture = "mlp"}}
        data = {{dataset = "digits"}}
        rounds = {{rounds = 1, cohort = 3, max_weight = 100}}
        {tail}
        """
    )


def new(tail: str = "") -> RoundSum:
    one = recipe(tail)
    return RoundSum(one, make_algorithm(one.algorithm), BASE, {})


def three() -> list[Update]:
    return [
        update(
            trainable=np.full(9, 0.1 * i),
            statistics=np.full(6, i),
            counters=[i],
            worker_id=f"w{i}",
            weight=float(i),
        )
        for i in (1, 2, 3)
    ]


def test_round_sum_gives_the_next_state() -> None:
    total = new()
    for one in three():
        total.check(one, BASE_DIGEST)
        total.fold(one)

    outcome = total.outcome([], 1)
    following, memory = outcome.state, outcome.memory

    mean = (0.1 + 0.4 + 0.9) / 6
    np.testing.assert_allclose(following.trainable, BASE.trainable + mean, rtol=1e-6)
    np.testing.assert_allclose(following.statistics, np.full(6, 14 / 6), rtol=1e-6)
    np.testing.assert_array_equal(following.counters, [3])
    assert memory == {}


def test_round_sum_is_bit_identical_in_every_order() -> None:
    results = set()
    for order in itertools.permutations(three()):
        total = new('algorithm = {name = "fedavg", statistics = "pooled"}')
        for one in order:
            total.fold(one)
        following = total.outcome([], 1).state
        results.add((following.trainable.tobytes(), following.statistics.tobytes()))

    assert len(results) == 1


class Lanes(FedAvg):
    """Keeps what it was given, and publishes the base."""

    def __init__(self) -> None:
        super().__init__(FedAvgOptions())
        self.seen: list[RoundResult] = []

    def step(self, result: RoundResult) -> Outcome:
        self.seen.append(result)
        return Outcome(result.base)


def test_round_sum_has_a_sum_for_each_lane() -> None:
    algorithm = Lanes()
    updates = three()
    seen = {}
    for order in itertools.permutations(zip(updates, ("z", "", "z"), strict=True)):
        total = RoundSum(recipe(), algorithm, BASE, {})
        for one, lane in order:
            total.fold(one, lane=lane)
        total.outcome([one.header for one in updates], 7)
        result = algorithm.seen[-1]
        means = {lane: found.means["trainable"] for lane, found in result.aggregates.items()}
        seen[tuple((lane, mean.tobytes()) for lane, mean in means.items())] = result

    # One answer for all orders of arrival, the lanes in order.
    assert len(seen) == 1
    result = algorithm.seen[-1]
    assert list(result.aggregates) == ["", "z"]
    np.testing.assert_allclose(result.aggregates[""].means["trainable"], 0.2, rtol=1e-6)
    np.testing.assert_allclose(result.aggregates["z"].means["trainable"], 1.0 / 4, rtol=1e-6)
    assert result.round == 7
    assert [h.worker_id for h in result.headers_of("z")] == ["w1", "w3"]
    assert [h.worker_id for h in result.headers_of("")] == ["w2"]


def test_lane_without_an_update_is_not_in_the_result() -> None:
    algorithm = Lanes()
    total = RoundSum(recipe(), algorithm, BASE, {})

    total.fold(three()[0], lane="4")
    total.outcome([], 1)

    assert list(algorithm.seen[0].aggregates) == ["4"]


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (update(base_digest="cd" * 32), "SCHEMA_MISMATCH"),
        (update(schema_digest="cd" * 32), "SCHEMA_MISMATCH"),
        (update(weight=100.5), "UPDATE_INVALID"),
        (update(weight=0.0), "UPDATE_INVALID"),
        (update(weight=-1.0), "UPDATE_INVALID"),
        (update(weight=float("nan")), "UPDATE_INVALID"),
        (update(trainable=np.full(9, np.nan)), "UPDATE_NOT_FINITE"),
        (update(trainable=np.full(9, 1e6)), "UPDATE_OUT_OF_RANGE"),
    ],
)
def test_round_sum_refuses_what_cannot_be_folded(one: Update, code: str) -> None:
    with pytest.raises(FedFleetError) as caught:
        new().check(one, BASE_DIGEST)
    assert caught.value.code == code


def test_refused_update_names_both_versions() -> None:
    with pytest.raises(FedFleetError, match=f"cdcdcdcdcdcd.*{BASE_DIGEST[:12]}"):
        new().check(update(base_digest="cd" * 32), BASE_DIGEST)


def test_largest_weights_of_a_whole_cohort_fit() -> None:
    total = new()
    for i in range(3):
        one = update(trainable=np.full(9, 1024.0), worker_id=f"w{i}", weight=100.0)
        total.check(one, BASE_DIGEST)
        total.fold(one)

    following = total.outcome([], 1).state

    np.testing.assert_allclose(following.trainable, BASE.trainable + 1024, rtol=1e-6)
    assert following.schema is SCHEMA
