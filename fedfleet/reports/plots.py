"""Which figures a report has: those that compare runs, and those that take one run apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from fedfleet.reports import breakdowns
from fedfleet.reports.canvas import HEAT, short_name
from fedfleet.reports.curves import ALONG, QUANTITIES, Along, Quantity, can_draw, draw_curves
from fedfleet.reports.data_map import draw_partition
from fedfleet.reports.groups import Group
from fedfleet.reports.measures import hits_name, points_of
from fedfleet.reports.record import Record
from fedfleet.reports.settings import is_detector

# In a page, whatever the number of workers and classes.
_WIDEST_INCHES, _TALLEST_INCHES = 4.6, 5.4


@dataclass(frozen=True)
class Plot:
    """A figure that is not drawn yet.

    Args:
        name: of its PNG file, without the ending.
        caption: what it shows, for people and screen readers.
        draw: the argument says whether the figure needs a legend of its own.
    """

    name: str
    caption: str
    draw: Callable[[bool], Figure]


def comparing_plots(groups: Sequence[Group]) -> list[Plot]:
    """Accuracy and loss over everything that at least one of the groups has."""
    return [
        Plot(
            f"{what.name}-by-{along.name}",
            f"{what.label.capitalize()} by {along.label}",
            partial(_curves, groups, along, what),
        )
        for what in QUANTITIES
        for along in ALONG
        if can_draw(groups, along)
    ]


def _curves(groups: Sequence[Group], along: Along, what: Quantity, named: bool) -> Figure:
    return draw_curves(groups, along, what, named=named)


def breakdown_plots(record: Record, prefix: str = "") -> list[Plot]:
    """What there is to see of one run.

    Args:
        prefix: of the files' names, where there are several runs.
    """
    return [Plot(prefix + plot.name, plot.caption, plot.draw) for plot in _breakdowns(record)]


def _breakdowns(record: Record) -> Iterator[Plot]:
    hits = hits_name(of_detector=is_detector(record.recipe))
    if points_of(record):
        yield Plot(
            "class-accuracy",
            f"{hits.capitalize()} per class over rounds; on the right, of the last",
            lambda _: breakdowns.draw_classes(record),
        )
    found = breakdowns.confusion_of(record)
    if found is not None:
        yield Plot(
            "confusion",
            f"Confusion matrix of round {found[0]}: examples by label and answer",
            lambda _: breakdowns.draw_confusion(record),
        )
    rounds = breakdowns.worker_rounds(record)
    if rounds:
        yield Plot(
            "worker-accuracy",
            f"{hits.capitalize()} per worker in round {rounds[-1].round}, on its own data; "
            "dashed: their mean",
            lambda _: breakdowns.draw_workers(record),
        )
    if len(rounds) > 1:
        yield Plot(
            "worker-accuracy-by-round",
            f"{hits.capitalize()} of the workers over rounds",
            lambda _: breakdowns.draw_worker_rounds(record),
        )
    data = record.data
    if data is not None:
        yield Plot(
            "data-map",
            f"Who holds what: {data.title}",
            lambda _: draw_partition(
                data.per_class,
                [short_name(name) for name in record.facts.classes],
                data.groups,
                widest_inches=_WIDEST_INCHES,
                tallest_inches=_TALLEST_INCHES,
                colours=HEAT,
            ),
        )


def file_prefix(number: int, group: Group, total: int) -> str:
    """What the files of a group's run begin with; nothing where there is one group only."""
    if total == 1:
        return ""
    words = re.sub(r"[^a-z0-9.]+", "-", group.label.lower())[:48].strip("-.")
    return f"{number + 1}-{words}-" if words else f"{number + 1}-"
