"""The default boxes of detectors: where a prediction looks before it is corrected; torch-free.

As torchvision's ``DefaultBoxGenerator`` makes them (Liu et al. 2016, arXiv:1512.02325, section
2.2).

Legend: A = anchors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Rows (left, top, right, bottom) or (centre x, centre y, width, height), as shares of the sides.
BoxRows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """What one detector looks at.

    Args:
        strides: pixels of the input between two places of each feature map.
        scales: side of each map's square anchors, as a share of the input's; one more than maps.
        ratios: width to height of the other anchors, each with its inverse.
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def per_place(self) -> int:
        """Anchors of each place of a map: two squares and a pair for each ratio."""
        return 2 + 2 * len(self.ratios)

    def anchors(self, height: int, width: int) -> BoxRows:
        """All anchors as rows (centre x, centre y, width, height), shape (A, 4).

        In the order of a head's answers: map by map, in each row by row, place by place.

        Args:
            height, width: of the input in pixels.
        """
        parts = [
            _of_map(math.ceil(height / stride), math.ceil(width / stride), self._shapes(place))
            for place, stride in enumerate(self.strides)
        ]
        return np.concatenate(parts)

    def _shapes(self, place: int) -> list[tuple[float, float]]:
        """Width and height of the anchors of one map."""
        scale = self.scales[place]
        between = math.sqrt(scale * self.scales[place + 1])
        shapes = [(scale, scale), (between, between)]
        for ratio in self.ratios:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        return [(min(wide, 1.0), min(high, 1.0)) for wide, high in shapes]


def linear_scales(least: float, most: float, maps: int) -> tuple[float, ...]:
    """Scales in equal steps (equation 4), and 1 for what comes after the last map."""
    step = (most - least) / (maps - 1)
    return (*(least + step * place for place in range(maps)), 1.0)


def _of_map(rows: int, columns: int, shapes: Sequence[tuple[float, float]]) -> BoxRows:
    centre_y, centre_x = np.meshgrid(
        (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij"
    )
    places = np.stack([centre_x.reshape(-1), centre_y.reshape(-1)], axis=1)
    sides = np.asarray(shapes)
    whole = np.concatenate(
        [np.repeat(places, len(sides), axis=0), np.tile(sides, (len(places), 1))], axis=1
    )
    return whole.astype(np.float32)


# Each detector by its architecture.
GRIDS: Mapping[str, Grid] = {
    "ssd_tiny": Grid(strides=(8, 16, 32, 64), scales=(0.12, 0.24, 0.40, 0.60, 0.85), ratios=(2.0,)),
    "ssdlite320_mobilenet_v3_large": Grid(
        strides=(16, 32, 64, 128, 256, 512),
        scales=linear_scales(0.2, 0.95, 6),
        ratios=(2.0, 3.0),
    ),
}
