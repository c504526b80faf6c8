from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samples import SCHEMA, sections, update

from fedfleet.aggregation.accumulator import (
    MAX_ABS_STATISTIC,
    MAX_ABS_TRAINABLE,
    StatisticsPolicy,
    UpdateAccumulator,
)
from fedfleet.errors import FedFleetError
from fedfleet.types import Kind, ParamSpec, Schema, Section, Update


def new(policy: StatisticsPolicy = "average", extra: tuple[str, ...] = ()) -> UpdateAccumulator:
    return UpdateAccumulator(SCHEMA, policy=policy, max_updates=4, max_weight=100, extra=extra)


def refused(accumulator: UpdateAccumulator, one: Update) -> FedFleetError:
    with pytest.raises(FedFleetError) as caught:
        accumulator.check(one)
    return caught.value


def test_accumulator_gives_hand_values() -> None:
    total = new()
    total.add(update(trainable=np.full(9, 1.0), statistics=np.full(6, 2.0), counters=[5]), 1.0)
    total.add(update(trainable=np.full(9, 5.0), statistics=np.full(6, 6.0), counters=[3]), 3.0)

    aggregate = total.result()

    np.testing.assert_array_equal(aggregate.means["trainable"], np.full(9, 4.0))
    np.testing.assert_array_equal(aggregate.statistics, np.full(6, 5.0, np.float32))
    np.testing.assert_array_equal(aggregate.counters, [5])
    assert (aggregate.updates, aggregate.total_weight) == (2, 4.0)


def test_counters_are_whole_numbers_and_exact_beyond_what_a_float_holds() -> None:
    total = new()
    total.add(update(counters=[2**53 + 1]), 1.0)
    total.add(update(counters=[7]), 50.0)

    counters = total.result().counters

    assert counters.dtype == np.int64
    assert counters[0] == 2**53 + 1


def test_pooled_policy_gives_hand_values() -> None:
    total = new("pooled")
    # Half at 0, half at 2, nothing else: mean 1, variance 1.
    total.add(update(statistics=[0, 0, 0, 0, 0, 0]), 1.0)
    total.add(update(statistics=[2, 2, 2, 0, 0, 0]), 1.0)

    np.testing.assert_array_equal(total.result().statistics, [1, 1, 1, 1, 1, 1])


def test_pooled_policy_never_gives_a_negative_variance() -> None:
    total = new("pooled")
    for _ in range(3):
        total.add(update(statistics=[1e5, 1e5, 1e5, 1e-9, 0, 0]), 7.0)

    assert (total.result().statistics[3:] >= 0).all()


def test_pooled_policy_averages_statistics_that_are_no_mean_and_variance_pair() -> None:
    schema = Schema(
        (
            ParamSpec("a.running_mean", (1,), Kind.STATISTIC),
            ParamSpec("scale.amax", (1,), Kind.STATISTIC),
        )
    )
    total = UpdateAccumulator(schema, policy="pooled", max_updates=2, max_weight=1)
    total.add(update(schema, statistics=[2, 4]), 1.0)
    total.add(update(schema, statistics=[4, 8]), 1.0)

    np.testing.assert_array_equal(total.result().statistics, [3, 6])


def test_result_of_no_update_is_refused() -> None:
    with pytest.raises(FedFleetError) as caught:
        new().result()
    assert caught.value.code == "UPDATE_INVALID"


def test_result_is_a_copy() -> None:
    total = new()
    total.add(update(counters=[1]), 1.0)
    first = total.result()
    total.add(update(counters=[9], trainable=np.ones(9)), 1.0)

    assert first.counters[0] == 1
    assert first.means["trainable"].max() == 0


def test_update_of_another_schema_is_refused() -> None:
    other = Schema(SCHEMA.params[:1])

    error = refused(new(), update(other))

    assert error.code == "SCHEMA_MISMATCH"
    assert other.digest[:12] in error.message
    assert SCHEMA.digest[:12] in error.message


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"trainable": [np.nan] + [0] * 8}, "UPDATE_NOT_FINITE"),
        ({"trainable": [np.inf] + [0] * 8}, "UPDATE_NOT_FINITE"),
        ({"trainable": [2 * MAX_ABS_TRAINABLE] + [0] * 8}, "UPDATE_OUT_OF_RANGE"),
        ({"statistics": [0] * 5 + [np.nan]}, "UPDATE_NOT_FINITE"),
        ({"statistics": [0] * 5 + [-np.inf]}, "UPDATE_NOT_FINITE"),
        ({"statistics": [0] * 5 + [2 * MAX_ABS_STATISTIC]}, "UPDATE_OUT_OF_RANGE"),
        ({"trainable": np.zeros(8)}, "UPDATE_INVALID"),
        ({"statistics": np.zeros(7)}, "UPDATE_INVALID"),
        ({"counters": [1, 2]}, "UPDATE_INVALID"),
    ],
)
@pytest.mark.parametrize("policy", ["average", "pooled"])
def test_update_with_bad_values_is_refused(
    changes: dict[str, object], code: str, policy: StatisticsPolicy
) -> None:
    assert refused(new(policy), update(**changes)).code == code


def test_update_that_passes_the_check_can_be_added_whatever_the_policy() -> None:
    # Its square passes the bound: found when it is checked, not when it is folded.
    large = update(statistics=[2.0**30] * 3 + [1.0] * 3)

    new("average").check(large)
    assert refused(new("pooled"), large).code == "UPDATE_OUT_OF_RANGE"


ZEROS = np.zeros(9, np.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        sections()[1:],
        sections()[:2],
        # Folded blindly, each of these would be counted twice or would stand alone at the end.
        (*sections(), sections()[0]),
        (*sections(), sections()[1]),
        (*sections(), Section("more", Kind.STATISTIC, np.zeros(6, np.float32))),
        (*sections(), Section("control", Kind.TRAINABLE, ZEROS)),
        (Section("statistic", Kind.TRAINABLE, ZEROS), *sections()[::2]),
    ],
)
def test_update_must_carry_exactly_the_sections_that_were_asked_for(
    wrong: tuple[Section, ...],
) -> None:
    error = refused(new(), replace(update(), sections=wrong))

    assert error.code == "UPDATE_INVALID"
    assert "expected: " in error.message
    assert "trainable (trainable)" in error.message


def test_sections_that_the_algorithm_adds_are_averaged_by_name() -> None:
    total = new(extra=("control",))
    control = Section("control", Kind.TRAINABLE, np.full(9, 8.0, np.float32))
    one = replace(update(trainable=np.ones(9)), sections=(*sections(), control))
    total.check(one)

    total.add(one, 2.0)

    means = total.result().means
    np.testing.assert_array_equal(means["control"], np.full(9, 8.0))
    np.testing.assert_array_equal(means["trainable"], np.zeros(9))
    assert refused(total, update()).code == "UPDATE_INVALID"
