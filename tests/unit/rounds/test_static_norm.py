"""The statistics of a version, out of what workers measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.aggregation.accumulator import StatisticsPolicy
from fedfleet.errors import UpdateInvalid, UpdateNotFinite, UpdateOutOfRange
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.rounds.static_norm import (
    Measured,
    check_measured,
    level_statistics,
    needs_queries,
    queried_levels,
    with_measured,
)
from fedfleet.types import Kind, ModelState, ParamSpec, Schema
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.limits import MAX_LEVEL_STATISTICS, MAX_REQUEST_BYTES

SCHEMA = Schema(
    (
        ParamSpec("weight", (2,), Kind.TRAINABLE),
        ParamSpec("running_mean", (2,), Kind.STATISTIC),
        ParamSpec("running_var", (2,), Kind.STATISTIC),
        ParamSpec("num_batches_tracked", (), Kind.COUNTER),
    )
)
STATE = ModelState(
    SCHEMA, np.ones(2, np.float32), np.full(4, 7, np.float32), np.array([3], np.int64)
)
RECIPE = """
name = "levels"
[model]
architecture = "mlp"
[data]
dataset = "digits"
partition = "iid"
workers = 4
[rounds]
rounds = 1
cohort = 2
[algorithm]
name = "heterofl"
[levels]
static_norm = {static_norm}
{more}
"""
# A narrower level: one channel of the two.
NARROW = Schema(
    (
        ParamSpec("running_mean", (1,), Kind.STATISTIC),
        ParamSpec("running_var", (1,), Kind.STATISTIC),
    )
)
ASKED = {"b": NARROW, "c": NARROW}


def recipe(static_norm: str = "true", more: str = "") -> Recipe:
    return parse_recipe(RECIPE.format(static_norm=static_norm, more=more))


def measured(samples: int, *values: float, counter: int = 2, **levels: list[float]) -> Measured:
    return Measured(
        samples,
        np.array(values, np.float32),
        np.array([counter], np.int64),
        {level: np.array(one, np.float32) for level, one in levels.items()},
    )


@pytest.mark.parametrize(
    ("policy", "variances"),
    [("average", [1.75, 2.0]), ("pooled", [1.75 + 3.0, 2.0])],
)
def test_statistics_are_means_by_samples(policy: StatisticsPolicy, variances: list[float]) -> None:
    # Means 0 and 4 with weights 1/4 and 3/4: 3, and a variance of 3 between the workers.
    found = with_measured(
        STATE, [measured(1, 0, 5, 1, 2), measured(3, 4, 5, 2, 2, counter=9)], policy
    )

    assert found.statistics.tolist() == [3.0, 5.0, *variances]
    assert found.counters.tolist() == [9]
    assert found.trainable is STATE.trainable


def test_a_version_that_nobody_measured_keeps_the_updates_own() -> None:
    assert with_measured(STATE, [], "average") is STATE


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (measured(2, 1, 2, 3), UpdateInvalid),
        (measured(0, 1, 2, 3, 4), UpdateInvalid),
        (measured(2, 1, 2, 3, np.nan), UpdateNotFinite),
        (measured(9, 1, 2, 3, 4, counter=-1), UpdateInvalid),
        (measured(9, 1, 2, 3, 4, counter=10), UpdateInvalid),
        (measured(101, 1, 2, 3, 4), UpdateInvalid),
        (measured(9, 1, 2, 3, -1e-9), UpdateOutOfRange),
        (Measured(1, np.ones(4, np.float32), np.ones(2, np.int64)), UpdateInvalid),
        (measured(2, 1, 2, 3, 4, a=[1, 2]), UpdateInvalid),
        (measured(2, 1, 2, 3, 4, d=[1, 2]), UpdateInvalid),
        (measured(2, 1, 2, 3, 4, b=[1, 2], c=[1]), UpdateInvalid),
        (measured(2, 1, 2, 3, 4, b=[1, 2, 3, 4]), UpdateInvalid),
        (measured(2, 1, 2, 3, 4, c=[np.inf, 2]), UpdateNotFinite),
        (measured(2, 1, 2, 3, 4, c=[-3e38, 2]), UpdateOutOfRange),
        (measured(2, 1, 2, 3, 4, b=[1, -1e-9]), UpdateOutOfRange),
    ],
)
def test_what_is_no_measurement_is_refused(wrong: Measured, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_measured(wrong, SCHEMA, 100, ASKED)


@pytest.mark.parametrize("levels", [{}, {"c": [-1, 0]}, {"b": [0, 0], "c": [1, 2]}])
def test_what_a_worker_measures_is_taken(levels: dict[str, list[float]]) -> None:
    check_measured(measured(100, -1, 2, 0, 4, counter=100, **levels), SCHEMA, 100, ASKED)


@pytest.mark.parametrize(("policy", "variance"), [("average", 1.75), ("pooled", 1.75 + 3.0)])
def test_statistics_of_a_level_are_means_over_who_measured_it(
    policy: StatisticsPolicy, variance: float
) -> None:
    """A worker of an older release has measured none."""
    whole = (0.0, 0.0, 0.0, 0.0)
    sent = [measured(1, *whole, b=[0, 1]), measured(50, *whole), measured(3, *whole, b=[4, 2])]

    found = level_statistics(sent, ASKED, policy)

    assert {level: one.tolist() for level, one in found.items()} == {"b": [3.0, variance]}
    assert found["b"].dtype == np.float32
    assert level_statistics([], ASKED, policy) == {}


@given(
    samples=st.lists(st.integers(1, 1000), min_size=1, max_size=5),
    policy=st.sampled_from(["average", "pooled"]),
    values=st.data(),
)
def test_statistics_of_a_level_are_what_a_model_of_its_width_would_have(
    samples: list[int], policy: StatisticsPolicy, values: st.DataObject
) -> None:
    """The whole width's sum and the level's are one."""
    means = st.floats(-100, 100, width=32)
    variances = st.floats(0, 100, width=32)
    pairs = [[values.draw(means), values.draw(variances)] for _ in samples]
    sent = [measured(n, 0, 0, 0, 0, b=one) for n, one in zip(samples, pairs, strict=True)]
    state = ModelState(NARROW, *(np.zeros(NARROW.elements(kind), kind.dtype) for kind in Kind))
    alone = [replace(one, statistics=one.levels["b"], counters=state.counters) for one in sent]

    found = level_statistics(sent, {"b": NARROW}, policy)["b"]

    assert found.tobytes() == with_measured(state, alone, policy).statistics.tobytes()
    assert found[1] >= 0


def test_only_models_with_statistics_are_queried() -> None:
    plain = Schema(SCHEMA.params[:1])

    assert needs_queries(recipe(), SCHEMA)
    assert not needs_queries(recipe(), plain)
    assert not needs_queries(recipe("false"), SCHEMA)


def test_narrower_levels_are_queried_whose_slices_stay_and_have_statistics() -> None:
    rates = "rates = [1.0, 0.5, 0.25]"

    assert queried_levels(recipe(more=rates), lambda level: NARROW) == ASKED
    assert queried_levels(recipe("false", rates), lambda level: NARROW) == {}
    rolling = recipe(more=rates + '\nsubmodel = "rolling"')
    assert queried_levels(rolling, lambda level: NARROW) == {}
    assert queried_levels(recipe(more=rates), lambda level: Schema(SCHEMA.params[:1])) == {}


def test_a_level_with_more_statistics_than_a_report_takes_is_left_out() -> None:
    sizes = {
        "a": 9,
        "b": MAX_LEVEL_STATISTICS,
        "c": 1,
        "d": MAX_LEVEL_STATISTICS - 3,
        "e": 5,
        "f": 2,
    }

    def schema_of(level: str) -> Schema:
        return Schema((ParamSpec("mean", (sizes[level],), Kind.STATISTIC),))

    rates = "rates = [1.0, 0.5, 0.25, 0.2, 0.1, 0.05]"
    assert [*queried_levels(recipe(more=rates), schema_of)] == ["b"]
    sizes["b"] += 1
    assert [*queried_levels(recipe(more=rates), schema_of)] == ["c", "d", "f"]


@pytest.mark.parametrize("whole", [262_144, 270_000, 300_000, 350_000, 500_000])
def test_levels_never_make_a_report_larger_than_a_request_may_be(whole: int) -> None:
    rates = [1.0, 0.5, 0.25, 0.125, 0.0625]
    layers = 50  # each counts its batches
    sizes = {level: int(whole * rate) for level, rate in zip("abcde", rates, strict=True)}

    def schema_of(level: str) -> Schema:
        counters = [ParamSpec(f"count.{i}", (1,), Kind.COUNTER) for i in range(layers)]
        return Schema((ParamSpec("mean", (sizes[level],), Kind.STATISTIC), *counters))

    asked = queried_levels(recipe(more=f"rates = {rates}"), schema_of)
    report = pb.StatisticsReport(
        assignment_id="r-" + "0" * 12 + "/1000000/1/query/" + "w" * 64,
        samples=2**63,
        statistics=np.ones(whole, np.float32),
        counters=[-1] * layers,
        levels=[
            pb.LevelStatistics(level=level, statistics=np.ones(sizes[level], np.float32))
            for level in asked
        ],
    )

    assert asked or whole == 500_000, "some level fits"
    assert pb.ConnectRequest(statistics=report).ByteSize() <= MAX_REQUEST_BYTES
