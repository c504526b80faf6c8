"""Draws accuracy and loss of one or more groups of runs over rounds, bytes or seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from fedfleet.reports.canvas import COLOURS, DASHES, in_percent, new_figure
from fedfleet.reports.groups import Curve, Group, curve_of
from fedfleet.reports.measures import Point, quality_of

_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_SECONDS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "s"))
_MARKED = 12  # with so few points a line alone does not show where they are
_MOST_NAMED = 12  # lines that a picture's own legend names
_LABEL_COLUMNS = 48
# Losses that differ by more than this are drawn on a logarithmic axis; so are runs whose ends do.
_WIDE = 30.0


@dataclass(frozen=True)
class Along:
    """What a run is drawn over. ``units`` in falling size; none for a plain number."""

    name: str
    label: str
    value: Callable[[Point], float | None]
    units: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Quantity:
    """What is drawn."""

    name: str
    label: str
    value: Callable[[Point], float]


ALONG = (
    Along("round", "round", lambda point: point.round),
    Along("bytes", "payload moved, up and down", lambda point: point.moved_bytes, _BYTES),
    Along("virtual-time", "virtual time", lambda point: point.virtual_s, _SECONDS),
    Along("time", "time since the run began", lambda point: point.elapsed_s, _SECONDS),
)
QUANTITIES = (
    Quantity("accuracy", "accuracy", lambda point: point.accuracy),
    Quantity("loss", "loss", lambda point: point.loss),
)


def look_of(number: int) -> tuple[str, tuple[float, ...]]:
    """Colour and dashes of the line of a group, by its place."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def can_draw(groups: Sequence[Group], axis: Along) -> bool:
    """Whether any group has values on this axis."""
    return any(curve_of(group, axis.value, lambda point: point.accuracy) for group in groups)


def draw_curves(groups: Sequence[Group], axis: Along, what: Quantity, *, named: bool) -> Figure:
    """One line per group; where it has several seeds, their mean in the band of all.

    Args:
        named: with a legend; a page has its own.
    """
    curves = [curve_of(group, axis.value, what.value) for group in groups]
    largest = max(float(curve.x.max()) for curve in curves if curve)
    scale, unit = _unit(axis, largest)
    labels = [fill(group.label, _LABEL_COLUMNS) for group in groups[:_MOST_NAMED]]
    has_legend = named and len(groups) > 1
    lines = sum(1 + label.count("\n") for label in labels) if has_legend else 0
    figure = new_figure(2.6 + 0.17 * lines)
    axes = figure.subplots()
    for number, (group, curve) in enumerate(zip(groups, curves, strict=True)):
        if curve is not None:
            colour, dashes = look_of(number)
            axes.plot(
                curve.x / scale,
                curve.mean,
                color=colour,
                dashes=dashes or (None, None),
                marker="o" if len(curve.x) <= _MARKED else None,
                markersize=3.5,
                label=labels[number] if number < _MOST_NAMED else None,
            )
            if len(group.records) > 1:
                band = axes.fill_between(curve.x / scale, curve.low, curve.high, color=colour)
                band.set(alpha=0.18, linewidth=0)
    axes.set_xlabel(f"{axis.label} ({unit})" if unit else axis.label)
    axes.set_ylabel(_label(groups, what))
    _scale_x(axes, axis, [curve for curve in curves if curve])
    _scale_y(axes, what, [curve for curve in curves if curve])
    if has_legend:
        figure.legend(loc="outside lower left", ncols=1)
    return figure


def _label(groups: Sequence[Group], what: Quantity) -> str:
    if what.name != "accuracy":
        return what.label
    return quality_of(record for group in groups for record in group.records)


def _unit(axis: Along, largest: float) -> tuple[float, str]:
    smallest = axis.units[-1] if axis.units else (1.0, "")
    return next((unit for unit in axis.units if largest >= unit[0]), smallest)


def _scale_x(axes: Axes, axis: Along, curves: Sequence[Curve]) -> None:
    if axis.name == "round":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return
    ends = [float(curve.x[-1]) for curve in curves]
    if all(curve.x[0] > 0 for curve in curves) and max(ends) / min(ends) > _WIDE:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)


def _scale_y(axes: Axes, what: Quantity, curves: Sequence[Curve]) -> None:
    if what.name == "accuracy":
        in_percent(axes, "y")
        return
    low = min(float(curve.low.min()) for curve in curves)
    high = max(float(curve.high.max()) for curve in curves)
    if low > 0 and high / low > _WIDE:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)


def _plain_ticks(axis: Axis) -> None:
    """Label powers of ten as numbers; what logarithmic axes usually have are formulas."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
