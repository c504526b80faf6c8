from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.config import Camera, Zone
from fedfleet_inference_api.cameras.secrets import Secret
from fedfleet_inference_api.cameras.zones import foot, is_inside, is_told, is_wanted, zones_of

Point = tuple[float, float]
POINTS = st.tuples(st.floats(0, 1), st.floats(0, 1))
LEFT_HALF = Zone(name="left", points=((0, 0), (0.5, 0), (0.5, 1), (0, 1)))
BOTTOM = Zone(name="bottom", points=((0, 0.5), (1, 0.5), (1, 1), (0, 1)), classes=("person",))


def camera(**fields: object) -> Camera:
    return Camera(name="door", url=Secret("rtsp://192.0.2.1/"), **fields)  # type: ignore[arg-type]


def winding(point: Point, polygon: list[Point]) -> float:
    """How often a polygon goes around a point: the sum of the angles at which it is seen."""
    total = 0.0
    for start, end in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        first = math.atan2(start[1] - point[1], start[0] - point[0])
        second = math.atan2(end[1] - point[1], end[0] - point[0])
        total += (second - first + math.pi) % (2 * math.pi) - math.pi
    return total / (2 * math.pi)


def distance(point: Point, polygon: list[Point]) -> float:
    """From the polygon's edge."""
    best = math.inf
    for start, end in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        dx, dy = end[0] - start[0], end[1] - start[1]
        along = (point[0] - start[0]) * dx + (point[1] - start[1]) * dy
        share = min(1.0, max(0.0, along / (dx * dx + dy * dy or 1.0)))
        near = (start[0] + share * dx, start[1] + share * dy)
        best = min(best, math.dist(point, near))
    return best


@st.composite
def stars(draw: st.DrawFn) -> list[Point]:
    """Simple polygons around the middle, convex or not, in either direction."""
    count = draw(st.integers(3, 9))
    radii = draw(st.lists(st.floats(0.05, 0.5), min_size=count, max_size=count))
    angles = [2 * math.pi * place / count for place in range(count)]
    corners = [
        (0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle))
        for radius, angle in zip(radii, angles, strict=True)
    ]
    return corners[::-1] if draw(st.booleans()) else corners


@given(POINTS, stars())
def test_is_inside_agrees_with_the_winding_number(point: Point, polygon: list[Point]):
    assume(distance(point, polygon) > 1e-6)

    assert is_inside(point, polygon) == (abs(winding(point, polygon)) > 0.5)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=6), POINTS)
def test_is_inside_does_not_depend_on_where_a_polygon_begins(corners: list[Point], point: Point):
    grid = [(x / 4, y / 4) for x, y in corners]
    point = (round(4 * point[0]) / 4, round(4 * point[1]) / 4)  # on corners and edges, often

    answers = {is_inside(point, grid[n:] + grid[:n]) for n in range(len(grid))}

    assert answers == {is_inside(point, grid[::-1])}


@pytest.mark.parametrize("point", [(0.0, 0.0), (0.5, 0.5), (0.25, 0.0), (0.5, 1.0)])
def test_an_edge_belongs_to_its_zone(point: Point):
    assert is_inside(point, LEFT_HALF.points)


def test_a_thing_stands_where_its_lower_edge_is():
    assert foot((0.2, 0.1, 0.6, 0.9)) == (0.4, 0.9)
    assert zones_of([BOTTOM], "person", (0.2, 0.1, 0.6, 0.45)) == ()
    assert zones_of([BOTTOM], "person", (0.2, 0.1, 0.6, 0.55)) == ("bottom",)


def test_zones_of_names_all_that_count_the_class():
    box = (0.2, 0.5, 0.4, 0.9)

    assert zones_of([LEFT_HALF, BOTTOM], "person", box) == ("left", "bottom")
    assert zones_of([LEFT_HALF, BOTTOM], "dog", box) == ("left",)


def test_a_camera_wants_its_classes_and_without_any_all():
    assert is_wanted(camera(), "dog")
    assert is_wanted(camera(classes=("dog",)), "dog")
    assert not is_wanted(camera(classes=("dog",)), "cat")


def test_only_what_is_in_a_zone_is_told_where_there_are_zones():
    assert is_told(camera(), ())
    assert is_told(camera(zones=(BOTTOM,)), ("bottom",))
    assert not is_told(camera(zones=(BOTTOM,)), ())
