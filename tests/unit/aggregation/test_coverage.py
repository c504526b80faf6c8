"""Each coordinate is the mean of those that have it, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.aggregation.accumulator import StatisticsPolicy, UpdateAccumulator
from fedfleet.aggregation.coverage import Part, merge, without_absent_rows
from fedfleet.aggregation.slices import Slice
from fedfleet.types import Kind, ModelState, ParamSpec, Schema, Section, Update, UpdateHeader

CLASSES = 3


def schema(width: int) -> Schema:
    """A 2 -> width -> 3 perceptron with the statistics of one normalisation."""
    return Schema(
        (
            ParamSpec("hidden.weight", (width, 2), Kind.TRAINABLE),
            ParamSpec("norm.running_mean", (width,), Kind.STATISTIC),
            ParamSpec("norm.running_var", (width,), Kind.STATISTIC),
            ParamSpec("norm.num_batches_tracked", (), Kind.COUNTER),
            ParamSpec("output.weight", (CLASSES, width), Kind.TRAINABLE),
        )
    )


FULL = schema(8)


def part_of(width: int) -> Slice:
    rows = np.arange(CLASSES)[:, None] * 8 + np.arange(width) + 16
    return Slice(
        FULL,
        schema(width),
        {
            Kind.TRAINABLE: np.concatenate([np.arange(2 * width), rows.reshape(-1)]),
            Kind.STATISTIC: np.concatenate([np.arange(width), 8 + np.arange(width)]),
            Kind.COUNTER: np.arange(1),
        },
    )


def rows_of(width: int) -> np.ndarray:
    rows = np.repeat(np.arange(CLASSES), width)
    return np.concatenate([np.full(2 * width, -1), rows]).astype(np.int32)


def base() -> ModelState:
    return ModelState(
        FULL,
        np.zeros(FULL.elements(Kind.TRAINABLE), np.float32),
        np.arange(16, dtype=np.float32) + 50,
        np.array([7], np.int64),
    )


def an_update(width: int, values: np.ndarray, statistics: np.ndarray, counter: int = 9) -> Update:
    header = UpdateHeader(
        run_id="r",
        round=1,
        assignment_id="a",
        worker_id="w",
        base_digest="",
        schema_digest=schema(width).digest,
        weight=1.0,
        steps=1,
        lr_sum=1.0,
    )
    return Update(
        header,
        (
            Section("trainable", Kind.TRAINABLE, values.astype(np.float32)),
            Section("statistic", Kind.STATISTIC, statistics.astype(np.float32)),
            Section("counter", Kind.COUNTER, np.array([counter], np.int64)),
        ),
    )


def accumulator(width: int, policy: StatisticsPolicy = "average") -> UpdateAccumulator:
    return UpdateAccumulator(schema(width), policy=policy, max_updates=8, max_weight=1 << 10)


widths = st.lists(st.sampled_from([8, 4, 2]), min_size=1, max_size=6)


@given(widths=widths, seed=st.integers(0, 2**31))
def test_each_coordinate_is_the_sum_over_its_owners_divided_by_their_weight(
    widths: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    size = FULL.elements(Kind.TRAINABLE)
    total, weights, owners = np.zeros(size), np.zeros(size), np.zeros(size, bool)
    sums = {width: accumulator(width) for width in set(widths)}
    for width in widths:
        places = part_of(width).places[Kind.TRAINABLE]
        values = rng.integers(-9, 10, places.size).astype(np.float64)
        weight = float(rng.integers(1, 5))
        sums[width].add(an_update(width, values, np.ones(2 * width)), weight)
        total[places] += weight * values
        weights[places] += weight
        owners[places] = True

    merged = merge([Part(one.totals(), part_of(w)) for w, one in sums.items()], base(), "average")

    expected = np.where(owners, total / np.maximum(weights, 1), 0.0)
    assert (merged.means["trainable"] == expected).all()
    assert (merged.means["trainable"][~owners] == 0).all()
    assert (merged.updates, merged.counters.tolist()) == (len(widths), [9])


@pytest.mark.parametrize("policy", ["average", "pooled"])
def test_one_width_alone_is_what_it_is_without_levels(policy: StatisticsPolicy) -> None:
    rng = np.random.default_rng(1)
    sums = accumulator(8, policy)
    for weight in (3.0, 5.0):
        statistics = rng.random(16) + 1
        sums.add(an_update(8, rng.normal(size=40), statistics), weight)
    whole = Slice(FULL, FULL, {kind: np.arange(FULL.elements(kind)) for kind in Kind})

    merged, alone = merge([Part(sums.totals(), whole)], base(), policy), sums.result()

    assert (merged.means["trainable"] == alone.means["trainable"]).all()
    assert (merged.statistics == alone.statistics).all()
    assert (merged.counters == alone.counters).all()
    assert (merged.updates, merged.total_weight) == (alone.updates, alone.total_weight)


def test_statistics_that_nobody_measured_stay_as_they_were() -> None:
    sums = accumulator(2)
    sums.add(an_update(2, np.zeros(10), np.array([1.0, 2.0, 3.0, 4.0]), counter=2), 1.0)

    merged = merge([Part(sums.totals(), part_of(2))], base(), "average")

    kept = base().statistics
    assert merged.statistics[:2].tolist() == [1.0, 2.0]
    assert merged.statistics[8:10].tolist() == [3.0, 4.0]
    assert (np.delete(merged.statistics, [0, 1, 8, 9]) == np.delete(kept, [0, 1, 8, 9])).all()
    assert merged.counters.tolist() == [7]  # the largest, the base's own included


def test_rows_of_the_output_layer_count_for_those_that_have_the_class() -> None:
    wide, narrow = accumulator(8), accumulator(2)
    # What is masked has no gradient, so its row does not move.
    own = np.concatenate([np.full(4, 2.0), np.repeat([0.0, 2.0, 0.0], 2)])
    whole = np.concatenate([np.full(16, 6.0), np.repeat([6.0, 6.0, 0.0], 8)])
    wide.add(an_update(8, whole, np.ones(16)), 1.0, classes=(0, 1))
    narrow.add(an_update(2, own, np.ones(4)), 1.0, classes=(1,))
    parts = [
        Part(wide.totals(), part_of(8), rows_of(8)),
        Part(narrow.totals(), part_of(2), rows_of(2)),
    ]

    means = merge(parts, base(), "average").means["trainable"]

    assert means[:4].tolist() == [4.0] * 4  # hidden, both
    assert means[4:16].tolist() == [6.0] * 12
    output = means[16:].reshape(CLASSES, 8)
    assert output[0].tolist() == [6.0] * 8
    assert output[1].tolist() == [4.0, 4.0] + [6.0] * 6
    assert output[2].tolist() == [0.0] * 8


def test_rows_of_classes_that_a_worker_has_not_do_not_move() -> None:
    # Weight decay moves what no loss asks for, and a worker need not be honest.
    sent = an_update(2, np.full(10, 2.0), np.ones(4))

    counted = without_absent_rows(sent, rows_of(2), classes=(1,))

    values = counted.section("trainable").values
    assert values.dtype == np.float32
    assert values.tolist() == [2.0] * 4 + [0.0] * 2 + [2.0] * 2 + [0.0] * 2
    assert sent.section("trainable").values.tolist() == [2.0] * 10
    assert counted.section("statistic") is sent.section("statistic")
