from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.figure import Figure
from records import record

from fedfleet.reports.canvas import house_style
from fedfleet.reports.curves import ALONG, QUANTITIES, can_draw, draw_curves, look_of
from fedfleet.reports.groups import Group, group_records
from fedfleet.reports.record import Record

ROUND, BYTES, VIRTUAL, TIME = ALONG
ACCURACY, LOSS = QUANTITIES


def drawn(records: Sequence[Record], along=ROUND, what=ACCURACY, *, named: bool = False) -> Figure:
    with house_style():
        figure = draw_curves(group_records(records), along, what, named=named)
        figure.draw_without_rendering()
    return figure


def test_curves_are_the_points_of_the_run() -> None:
    [line] = drawn([record((40, 60, 80))]).axes[0].lines

    np.testing.assert_allclose(line.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(line.get_ydata(), [0.4, 0.6, 0.8])


def test_curves_of_seeds_are_one_line_in_a_band() -> None:
    figure = drawn([record((40, 60), seed=1), record((20, 80), seed=2)], what=LOSS)

    [line] = figure.axes[0].lines
    [band] = figure.axes[0].collections
    np.testing.assert_allclose(line.get_ydata(), [2.0, 1.0])
    assert band.get_paths()


@pytest.mark.parametrize(
    ("along", "label", "last"),
    [
        (BYTES, "payload moved, up and down (B)", 450),
        (VIRTUAL, "virtual time (minutes)", 5),
        (TIME, "time since the run began (s)", 30),
    ],
)
def test_curves_are_drawn_in_units_that_fit(along, label: str, last: float) -> None:
    axes = drawn([record(virtual=True)], along).axes[0]

    assert axes.get_xlabel() == label
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(last)


def test_curves_of_runs_of_very_different_length_share_a_logarithmic_axis() -> None:
    long = record([50] * 90, lr=0.2)

    assert drawn([record((40, 60))], BYTES).axes[0].get_xscale() == "linear"
    axes = drawn([record((40, 60)), long], BYTES).axes[0]
    assert axes.get_xscale() == "log"
    assert all("$" not in tick.get_text() for tick in axes.get_xticklabels(which="both"))


def test_losses_of_very_different_size_get_a_logarithmic_axis() -> None:
    axes = drawn([record([50] * 90)], what=LOSS).axes[0]  # from 2 to 2 / 90

    assert axes.get_yscale() == "log"
    assert {tick.get_text() for tick in axes.get_yticklabels()} >= {"0.1", "1"}


def test_curves_can_be_drawn_only_over_what_is_known() -> None:
    groups = group_records([record()])

    assert [along.name for along in ALONG if can_draw(groups, along)] == ["round", "bytes", "time"]
    assert not can_draw(group_records([record((), workers=())]), ROUND)


def test_curves_name_the_runs_where_the_page_does_not() -> None:
    runs = [record(lr=0.1), record(lr=0.2)]

    assert not drawn(runs).legends
    [legend] = drawn(runs, named=True).legends
    assert [text.get_text() for text in legend.get_texts()] == ["lr = 0.1", "lr = 0.2"]
    assert not drawn(runs[:1], named=True).legends


def test_many_runs_fit_into_a_picture() -> None:
    runs = [record((40, 50 + n), lr=float(n), name=f"{'long ' * 12}{n}") for n in range(20)]
    groups: list[Group] = group_records(runs)
    with house_style():
        figure = draw_curves(groups, ROUND, ACCURACY, named=True)
        figure.draw_without_rendering()

    box = figure.legends[0].get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert figure.axes[0].get_window_extent().height > 100
    assert len({look_of(number) for number in range(20)}) == 20
