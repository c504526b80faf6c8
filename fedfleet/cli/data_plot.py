"""Draws who holds what; loads matplotlib, so only ``fedfleet data describe --plot`` imports it.

Legend: W = shards (one per worker), C = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedfleet.data.summary import ShardRow

_NAMED_CLASSES = 40  # more names than these would lie over each other
_DOTS_PER_INCH = 150
_COLOURS = "Blues"
# Counts differ by orders of magnitude: at equal steps of colour the small ones would look empty.
_GAMMA = 0.5


def plot_partition(
    path: Path,
    title: str,
    rows: Sequence[ShardRow],
    classes: Sequence[str],
    groups: Sequence[int] | None,
) -> None:
    """Write a picture: above each worker its number of examples, below them one row per class.

    Args:
        path: its ending names the format, ``.png`` or ``.svg``.
        groups: of each class; classes of one group are drawn side by side.

    Raises:
        OSError: the file cannot be written.
    """
    order_C = np.argsort(groups or [0] * len(classes), kind="stable")
    counts_CW = np.array([row.per_class for row in rows]).T[order_C]
    height = min(14.0, 3.0 + 0.16 * len(classes))
    figure = Figure(figsize=(min(16.0, 5.0 + 0.12 * len(rows)), height), layout="constrained")
    above, below = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [1.2, max(1.5, height - 2.0)]}
    )
    above.bar(np.arange(len(rows)), counts_CW.sum(axis=0), width=1.0, color="#4878a8")
    above.set_ylabel("examples")
    above.set_title(title, fontsize="medium", loc="left", parse_math=False)
    above.spines[["top", "right"]].set_visible(False)
    image = below.imshow(
        counts_CW,
        aspect="auto",
        interpolation="nearest",
        cmap=_COLOURS,
        norm=PowerNorm(_GAMMA, vmin=0, vmax=max(1, int(counts_CW.max()))),
    )
    _label_classes(below, [classes[label] for label in order_C], is_grouped=groups is not None)
    below.set_xlabel("worker")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=below, label="examples of the class", pad=0.02, aspect=30)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _label_classes(axes: Axes, classes: Sequence[str], *, is_grouped: bool) -> None:
    if len(classes) > _NAMED_CLASSES:
        axes.set_ylabel(f"the {len(classes)} classes" + (", by group" if is_grouped else ""))
        axes.set_yticks([])  # places in this order are no labels
        return
    axes.set_yticks(range(len(classes)))
    # A name is a name, also where it holds what matplotlib takes for a formula.
    axes.set_yticklabels(list(classes), fontsize="small", parse_math=False)
