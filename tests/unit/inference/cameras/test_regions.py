from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.overlap import meet
from fedfleet_inference_api.cameras.regions import MOST_REGIONS, area, merge_regions
from fedfleet_inference_api.cameras.seen import Box

SHARES = st.floats(0, 1, width=32)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x, y = sorted([draw(SHARES), draw(SHARES)]), sorted([draw(SHARES), draw(SHARES)])
    return x[0], y[0], x[1], y[1]


@given(st.lists(boxes(), max_size=12))
def test_merge_regions_covers_every_box_once(found: list[Box]):
    merged = merge_regions(found)

    for left, top, right, bottom in found:
        holding = [
            box
            for box in merged
            if box[0] <= left and box[1] <= top and box[2] >= right and box[3] >= bottom
        ]
        assert len(holding) == 1


@given(st.lists(boxes(), max_size=12))
def test_merge_regions_leaves_none_that_meet_and_stays_in_the_frame(found: list[Box]):
    merged = merge_regions(found)

    for place, box in enumerate(merged):
        assert not meet(box, merged[place + 1 :])
        assert min(box) >= 0
        assert max(box) <= 1
    areas = [area(box) for box in merged]
    assert areas == sorted(areas, reverse=True)


@given(st.permutations([(0.1, 0.1, 0.2, 0.2), (0.15, 0.15, 0.5, 0.3), (0.7, 0.7, 0.8, 0.8)]))
def test_merge_regions_does_not_depend_on_the_order(found: list[Box]):
    assert len(merge_regions(found)) == 2
    assert merge_regions(found) == merge_regions(sorted(found))


def test_merge_regions_is_bounded():
    rain = [(x / 64, y / 64, x / 64, y / 64) for x in range(64) for y in range(64)]

    assert len(merge_regions(rain, padding=0)) == MOST_REGIONS
