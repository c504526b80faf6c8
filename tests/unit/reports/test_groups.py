from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from records import record

from fedfleet.reports.groups import curve_of, group_records, spread, spread_at, spread_of


def test_runs_that_differ_only_in_the_seed_are_one_group() -> None:
    runs = [record(lr=lr, seed=seed) for lr in (0.1, 0.2) for seed in (3, 1, 2)]

    groups = group_records(runs)

    assert [group.label for group in groups] == ["lr = 0.1", "lr = 0.2"]
    assert [[one.facts.seed for one in group.records] for group in groups] == [[1, 2, 3]] * 2


def test_a_comment_makes_no_other_group() -> None:
    other = record(seed=2)
    other = replace(other, recipe=f"# tried again\n{other.recipe}")

    assert len(group_records([record(), other])) == 1


def test_the_same_seed_once_more_is_no_other_seed() -> None:
    groups = group_records([record(run_id="a"), record(run_id="b"), record(seed=2)])

    assert [group.label for group in groups] == ["tiny (a)", "tiny (b)"]
    assert [len(group.records) for group in groups] == [2, 1]


def test_deployed_and_simulated_runs_are_told_apart() -> None:
    groups = group_records([record(), record(source="deployed")])

    assert [group.label for group in groups] == ["tiny, simulated", "tiny, deployed"]


def test_runs_of_several_names_are_told_apart_by_what_differs_in_each() -> None:
    runs = [record(name="a", lr=0.1), record(name="a", lr=0.2), record(name="b", lr=0.9)]

    assert [group.label for group in group_records(runs)] == ["a, lr = 0.1", "a, lr = 0.2", "b"]


def test_spread_is_of_the_values_that_are_there() -> None:
    found = spread([1.0, None, 3.0])

    assert (found.mean, found.count, found.total) == (2.0, 2, 3)
    assert found.deviation == pytest.approx(2**0.5)
    assert spread([4.0]).deviation is None
    assert spread([None]).mean is None


def test_spreads_are_over_seeds() -> None:
    [group] = group_records([record((40, 60), seed=1), record((40, 80), seed=2)])

    assert spread_of(group, lambda found: found.final_accuracy).mean == 0.7
    reached = spread_at(group, 0.7, lambda point: point.round)
    assert (reached.mean, reached.count, reached.total) == (2.0, 1, 2)


def test_curve_is_the_mean_over_shared_rounds_between_smallest_and_largest() -> None:
    seeds = [record((40, 60, 90), seed=1), record((20, 80), seed=2), record((None,), workers=())]
    [group] = group_records(seeds[:2])
    [with_nothing] = group_records([*seeds[:2], replace(seeds[2], recipe=record(seed=3).recipe)])

    for one in (group, with_nothing):  # a seed without any point takes nothing away
        curve = curve_of(one, lambda point: point.moved_bytes, lambda point: point.accuracy)
        assert curve is not None
        np.testing.assert_allclose(curve.x, [150, 300])
        np.testing.assert_allclose(curve.mean, [0.3, 0.7])
        np.testing.assert_allclose(curve.low, [0.2, 0.6])
        np.testing.assert_allclose(curve.high, [0.4, 0.8])


def test_curve_over_something_that_is_not_known_is_none() -> None:
    [group] = group_records([record()])

    assert curve_of(group, lambda point: point.virtual_s, lambda point: point.loss) is None


def test_seeds_on_other_devices_are_another_group() -> None:
    options: list[dict[str, str]] = [{}, {"devices": "abc"}, {"devices": "def"}]
    runs = [record(seed=seed, options=one) for one in options for seed in (1, 2)]

    groups = group_records(runs)

    assert [group.label for group in groups] == ["tiny", "devices = abc", "devices = def"]
    assert [len(group.records) for group in groups] == [2, 2, 2]


def test_seeds_with_another_batch_are_another_group() -> None:
    runs = [record(), record(seed=2, options={"batch_workers": "8"})]

    assert len(group_records(runs)) == 2


def test_seeds_whose_data_lie_elsewhere_are_one_group() -> None:
    runs = [record(seed=seed, options={"data_dir": f"/data/{seed}"}) for seed in (1, 2)]

    assert len(group_records(runs)) == 1
