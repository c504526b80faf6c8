"""Zones of a camera: which of them a thing stands in, by the middle of its box's lower edge."""

from __future__ import annotations

from collections.abc import Sequence

from fedfleet_inference_api.cameras.config import Camera, Zone
from fedfleet_inference_api.cameras.seen import Box

Point = tuple[float, float]


def foot(box: Box) -> Point:
    """Where a thing stands: the middle of its box's lower edge."""
    return (box[0] + box[2]) / 2, box[3]


def is_inside(point: Point, polygon: Sequence[Point]) -> bool:
    """Whether a point is inside a polygon or on its edge, by the even-odd rule.

    Args:
        polygon: three corners or more, in either direction, convex or not; it closes itself.
    """
    x, y = point
    inside = False
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        side = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)
        if side == 0 and min(x1, x2) <= x <= max(x1, x2) and min(y1, y2) <= y <= max(y1, y2):
            return True
        # Half open in y, so that a ray through a corner crosses one of its two edges.
        if (y1 > y) != (y2 > y) and (side > 0) == (y2 > y1):
            inside = not inside
    return inside


def zones_of(zones: Sequence[Zone], label: str, box: Box) -> tuple[str, ...]:
    """Names of the zones that a thing of a class stands in, in their order."""
    point = foot(box)
    return tuple(
        zone.name
        for zone in zones
        if (not zone.classes or label in zone.classes) and is_inside(point, zone.points)
    )


def is_wanted(camera: Camera, label: str) -> bool:
    """Whether a camera is to see things of a class at all."""
    return not camera.classes or label in camera.classes


def is_told(camera: Camera, zones: Sequence[str]) -> bool:
    """Whether a thing in these zones is told of: in any of them, where the camera has zones."""
    return bool(zones) or not camera.zones
