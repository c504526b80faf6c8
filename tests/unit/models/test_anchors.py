from __future__ import annotations

import numpy as np
import pytest

from fedfleet.models.anchors import GRIDS, Grid, linear_scales
from fedfleet.models.torchvision_ops import ensure_torchvision_ops

ensure_torchvision_ops()
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator  # noqa: E402


@pytest.mark.parametrize("size", [(320, 320), (64, 96)])
def test_anchors_of_ssdlite_are_torchvisions(size: tuple[int, int]) -> None:
    theirs = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    maps = [[-(-side // 2**step) for side in size] for step in range(4, 10)]
    boxes = theirs._grid_default_boxes(maps, size)

    ours = GRIDS["ssdlite320_mobilenet_v3_large"].anchors(*size)

    np.testing.assert_allclose(ours, boxes.numpy(), atol=1e-6)


def test_linear_scales_are_those_of_equation_4() -> None:
    assert linear_scales(0.2, 0.9, 3) == pytest.approx((0.2, 0.55, 0.9, 1.0))


def test_anchors_go_row_by_row_and_fill_the_image() -> None:
    grid = Grid(strides=(16,), scales=(0.25, 1.0), ratios=(4.0,))

    anchors = grid.anchors(32, 48)

    assert anchors.shape == (2 * 3 * grid.per_place, 4)
    assert anchors.dtype == np.float32
    np.testing.assert_allclose(anchors[0], (1 / 6, 0.25, 0.25, 0.25))
    np.testing.assert_allclose(anchors[1], (1 / 6, 0.25, 0.5, 0.5))
    np.testing.assert_allclose(anchors[2:4, 2:], [(0.5, 0.125), (0.125, 0.5)])
    np.testing.assert_allclose(anchors[grid.per_place, :2], (0.5, 0.25))
    np.testing.assert_allclose(anchors[3 * grid.per_place, :2], (1 / 6, 0.75))


@pytest.mark.parametrize("name", list(GRIDS))
def test_every_detector_has_a_scale_for_each_map_and_one_more(name: str) -> None:
    grid = GRIDS[name]

    assert len(grid.scales) == len(grid.strides) + 1
    assert sorted(grid.scales) == list(grid.scales)
