"""The statistics of a version, out of what workers measured."""

from __future__ import annotations

import numpy as np
import pytest

from fedfleet.aggregation.accumulator import StatisticsPolicy
from fedfleet.errors import UpdateInvalid, UpdateNotFinite, UpdateOutOfRange
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rounds.static_norm import Measured, check_measured, needs_queries, with_measured
from fedfleet.types import Kind, ModelState, ParamSpec, Schema

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
"""


def measured(samples: int, *values: float, counter: int = 2) -> Measured:
    return Measured(samples, np.array(values, np.float32), np.array([counter], np.int64))


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
    ],
)
def test_what_is_no_measurement_is_refused(wrong: Measured, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_measured(wrong, SCHEMA, 100)


def test_what_a_worker_measures_is_taken() -> None:
    check_measured(measured(100, -1, 2, 0, 4, counter=100), SCHEMA, 100)


def test_only_models_with_statistics_are_queried() -> None:
    asked = parse_recipe(RECIPE.format(static_norm="true"))
    plain = Schema(SCHEMA.params[:1])

    assert needs_queries(asked, SCHEMA)
    assert not needs_queries(asked, plain)
    assert not needs_queries(parse_recipe(RECIPE.format(static_norm="false")), SCHEMA)
