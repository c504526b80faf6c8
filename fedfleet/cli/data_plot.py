"""Writes the picture of who holds what; loads matplotlib: only ``data describe --plot`` imports it.

Legend: W = shards (one per worker), C = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedfleet.data.summary import ShardRow
from fedfleet.reports.data_map import draw_partition

_DOTS_PER_INCH = 150


def plot_partition(
    path: Path,
    title: str,
    rows: Sequence[ShardRow],
    classes: Sequence[str],
    groups: Sequence[int] | None,
) -> None:
    """Write a picture: above each worker its number of examples (or of boxes, where the
    data set has them), below them one row per class.

    Args:
        path: its ending names the format, ``.png`` or ``.svg``.
        groups: of each class; classes of one group are drawn side by side.

    Raises:
        OSError: the file cannot be written.
    """
    per_class = [row.per_class for row in rows]
    counted = "boxes" if any(row.boxes is not None for row in rows) else "examples"
    figure = draw_partition(per_class, classes, groups, title=title, counted=counted)
    figure.savefig(path, dpi=_DOTS_PER_INCH)
