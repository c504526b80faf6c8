from __future__ import annotations

from dataclasses import replace

import pytest
from records import of_accuracy, record, round_result

from fedfleet.reports.measures import (
    evaluation_of,
    first_at,
    measure,
    points_of,
    target_for,
)


def test_points_add_up_what_was_spent_also_in_rounds_without_evaluation() -> None:
    points = points_of(record((None, 60, None, 80), workers=(), virtual=True))

    assert [point.round for point in points] == [2, 4]
    assert [point.moved_bytes for point in points] == [300, 600]
    assert [point.elapsed_s for point in points] == [20.0, 40.0]
    assert [point.virtual_s for point in points] == [200.0, 400.0]
    assert [point.accuracy for point in points] == [0.6, 0.8]


def test_measure_takes_the_first_of_equal_bests() -> None:
    found = measure(record((40, 80, 80, 70)))

    assert (found.rounds, found.final_accuracy, found.final_loss) == (4, 0.7, 0.5)
    assert (found.best_accuracy, found.best_round) == (0.8, 2)
    assert (found.bytes_up, found.bytes_down, found.elapsed_s) == (400, 200, 40.0)


def test_measure_of_a_run_without_rounds_is_empty() -> None:
    found = measure(record(()))

    assert found.rounds == found.bytes_up == 0
    assert found.final_accuracy is found.best_round is found.elapsed_s is None


def test_evaluation_is_the_workers_together_where_the_coordinator_has_none() -> None:
    both = evaluation_of(round_result(1, None, workers=(30, 90)))

    assert both is not None
    assert (both.samples, both.accuracy) == (200, 0.6)
    assert evaluation_of(round_result(1, 70, workers=(30, 90))) == of_accuracy(70, loss=2.0)
    assert evaluation_of(round_result(1)) is None


def test_evaluation_of_no_example_is_none() -> None:
    nothing = replace(of_accuracy(0), samples=0)

    assert evaluation_of(replace(round_result(1), evaluation=nothing)) is None


@pytest.mark.parametrize(("target", "round"), [(0.4, 1), (0.41, 2), (0.8, 3), (0.81, None)])
def test_first_at_is_the_first_round_that_has_it(target: float, round: int | None) -> None:
    first = first_at(record((40, 60, 80)), target)

    assert (first.round if first else None) == round


def test_target_is_nearly_the_best_in_whole_percents() -> None:
    assert target_for([record((40,)), record((80,))]) == 0.76
    assert target_for([record((100,))]) == 0.95
    assert target_for([record(())]) == 0.0
