from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from records import HOSTILE, evaluation, record, round_result

from fedfleet.reports.breakdowns import (
    confusion_of,
    draw_classes,
    draw_confusion,
    draw_worker_rounds,
    draw_workers,
    worker_rounds,
)
from fedfleet.reports.canvas import house_style


def labels(ticks) -> list[str]:
    return [tick.get_text() for tick in ticks]


def rendered(figure: Figure) -> Figure:
    with house_style():
        figure.draw_without_rendering()
    return figure


def test_classes_are_rows_and_evaluated_rounds_are_columns() -> None:
    figure = rendered(draw_classes(record((40, None, 80), workers=())))

    axes = figure.axes[0]
    shares = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shares[0], [0.4, 0.8])
    assert np.isnan(shares[1]).all()  # no example of the second class
    assert labels(axes.get_yticklabels()) == ["cat", "dog"]
    assert labels(axes.get_xticklabels()) == ["1", "3"]
    assert labels(axes.child_axes[0].get_yticklabels()) == ["80 %", "-"]


def test_confusion_is_the_last_that_was_counted() -> None:
    run = record((40, 60, 80))
    bare = replace(run.rounds[2].evaluation, confusion=())
    run = replace(run, rounds=[*run.rounds[:2], replace(run.rounds[2], evaluation=bare)])

    found = confusion_of(run)

    assert found is not None
    assert found[0] == 2
    assert confusion_of(record((None,))) is None


def test_confusion_shows_shares_of_the_label_and_counts() -> None:
    counts = [[3, 1], [0, 6]]
    run = replace(record(()), rounds=[replace(round_result(1), evaluation=evaluation(counts))])

    axes = rendered(draw_confusion(run)).axes[0]

    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert [text.get_text() for text in axes.texts] == ["3", "1", "6"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("label", "answer")


@pytest.mark.parametrize("classes", [2, 30, 120])
def test_figures_of_any_number_of_classes_can_be_drawn(classes: int) -> None:
    run = record((40, 60), classes=[f"class number {number}" for number in range(classes)])

    for draw in (draw_classes, draw_confusion):
        figure = rendered(draw(run))
        assert figure.axes[0].images
        assert len(figure.axes[0].get_yticks()) == (classes if classes <= 40 else 0)


def test_figures_take_names_as_they_are() -> None:
    run = record((40,), classes=HOSTILE)

    axes = rendered(draw_confusion(run)).axes[0]

    assert labels(axes.get_yticklabels())[0] == "<script>alert(1..."


def test_workers_are_bars_in_the_order_of_their_numbers() -> None:
    run = record((50,), workers=range(0, 96, 8))

    figure = rendered(draw_workers(run))

    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, np.arange(0, 0.96, 0.08))
    assert labels(figure.axes[0].get_xticklabels())[-3:] == ["9", "10", "11"]
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(np.mean(heights))


def test_many_workers_are_drawn_in_falling_order() -> None:
    axes = rendered(draw_workers(record((50,), workers=[n % 100 for n in range(400)]))).axes[0]

    assert axes.get_xlabel() == "workers, the best first"
    assert not axes.patches


def test_worker_rounds_span_from_the_worst_to_the_best() -> None:
    run = record((50, 50), workers=(20, 40, 60, 80, 100))

    axes = rendered(draw_worker_rounds(run)).axes[0]

    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.6, 0.6])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "all workers",
        "middle half",
        "median",
    ]
    assert len(worker_rounds(run)) == 2
    assert worker_rounds(record((50,), workers=())) == []
