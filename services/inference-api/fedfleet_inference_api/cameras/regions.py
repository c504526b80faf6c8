"""Moving regions made fit to look at: padded, merged where they meet, clipped to the frame."""

from __future__ import annotations

from collections.abc import Sequence

from fedfleet_inference_api.cameras.overlap import clip, meet
from fedfleet_inference_api.cameras.seen import Box

PADDING = 0.02
MOST_REGIONS = 16


def merge_regions(
    boxes: Sequence[Box], *, padding: float = PADDING, most: int = MOST_REGIONS
) -> tuple[Box, ...]:
    """Pad boxes, merge those that then meet until none do, and clip them.

    Args:
        boxes: the most important first; only the first ``4 * most`` are taken, so that rain or
            snow cannot make this slow.
        padding: as a share of the frame's sides, at each end.
        most: how many are returned, the largest.

    Returns:
        Boxes that do not meet, the largest first.
    """
    merged: list[Box] = []
    for left, top, right, bottom in boxes[: 4 * most]:
        new = clip((left - padding, top - padding, right + padding, bottom + padding))
        while touched := [box for box in merged if meet(new, [box])]:
            merged = [box for box in merged if box not in touched]
            new = around([new, *touched])
        merged.append(new)
    return tuple(sorted(merged, key=lambda box: (-area(box), box))[:most])


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of one or more boxes."""
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def area(box: Box) -> float:
    """As a share of the frame."""
    return (box[2] - box[0]) * (box[3] - box[1])
