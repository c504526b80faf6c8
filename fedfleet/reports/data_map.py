"""Draws who holds what.

Legend: W = shards (one per worker), C = classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedfleet.reports.canvas import ACCENT, NAMED_CLASSES

# Counts differ by orders of magnitude: at equal steps of colour the small ones would look empty.
_GAMMA = 0.5


def draw_partition(
    per_class: Sequence[Sequence[int]],
    classes: Sequence[str],
    groups: Sequence[int] | None,
    *,
    title: str = "",
    widest_inches: float = 16.0,
    tallest_inches: float = 14.0,
    colours: str | Colormap = "Blues",
    counted: str = "examples",
) -> Figure:
    """Above each worker its number of examples, below them one row per class.

    Args:
        per_class: a row per worker, a column per class.
        groups: of each class; classes of one group are drawn side by side.
        widest_inches, tallest_inches: however many workers and classes there are.
        counted: what the numbers are of.
    """
    order_C = np.argsort(groups or [0] * len(classes), kind="stable")
    counts_CW = np.array(per_class).T[order_C]
    workers = counts_CW.shape[1]
    height = min(tallest_inches, 3.0 + 0.16 * len(classes))
    width = min(widest_inches, 5.0 + 0.12 * workers)
    figure = Figure(figsize=(width, height), layout="constrained")
    above, below = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [1.2, max(1.5, height - 2.0)]}
    )
    above.bar(np.arange(workers), counts_CW.sum(axis=0), width=1.0, color=ACCENT)
    above.set_ylabel(counted)
    above.set_title(title, fontsize="medium", loc="left", parse_math=False, wrap=True)
    above.spines[["top", "right"]].set_visible(False)
    image = below.imshow(
        counts_CW,
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        norm=PowerNorm(_GAMMA, vmin=0, vmax=max(1, int(counts_CW.max()))),
    )
    _label_classes(below, [classes[label] for label in order_C], is_grouped=groups is not None)
    for axes in (above, below):
        axes.grid(visible=False)
    below.set_xlabel("worker")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=below, label=f"{counted} of the class", pad=0.02, aspect=30)
    return figure


def _label_classes(axes: Axes, classes: Sequence[str], *, is_grouped: bool) -> None:
    if len(classes) > NAMED_CLASSES:
        axes.set_ylabel(f"the {len(classes)} classes" + (", by group" if is_grouped else ""))
        axes.set_yticks([])  # places in this order are no labels
        return
    axes.set_yticks(range(len(classes)))
    # A name is a name, also where it holds what matplotlib takes for a formula.
    axes.set_yticklabels(list(classes), fontsize="small", parse_math=False)
