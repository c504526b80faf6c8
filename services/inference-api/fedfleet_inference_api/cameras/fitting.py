"""A frame, or a part of it, made fit for a model's input, in the way that training does it.

A detector is shown the whole frame, each direction scaled by itself, as its training pictures
were: nothing is cut off or filled up, and shares of the input's sides are shares of the frame's.
A classifier is shown a part that has the input's ratio of sides, so that the thing in it keeps its
shape; what such a part has beyond the frame is filled with the colour that the model takes for 0.

Legend: H, W = size of the frame, C = channels of the input, h, w = its size.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from fedfleet.data.images import Pixels
from fedfleet.types import InputSpec
from fedfleet_inference_api.cameras.overlap import clip, grow, rows_of
from fedfleet_inference_api.cameras.seen import Box

MARGIN = 0.2  # around a moving region, in its sides
SMALLEST = 0.15  # sides of a part that is looked at, as shares of the frame's
REDUCING_GAP = 2.0  # Pillow averages blocks first; faster, and hardly another picture


def fit_whole(pixels: Pixels, inputs: InputSpec) -> Pixels:
    """Scale a frame to a model's input, whatever its ratio of sides.

    Args:
        pixels: uint8, shape (H, W, 3).
        inputs: of an image, with 1 or 3 channels.

    Returns:
        uint8, shape (C, h, w).
    """
    shown = _scaled(pixels, inputs.width, inputs.height, inputs.channels)
    return np.ascontiguousarray(shown.transpose(2, 0, 1))


def with_margin(region: Box) -> Box:
    """A region with something of what is around it, and not too small to be recognised."""
    left, top, right, bottom = grow(rows_of([region]), MARGIN)[0].tolist()
    missing_x = max(0.0, SMALLEST - (right - left)) / 2
    missing_y = max(0.0, SMALLEST - (bottom - top)) / 2
    return clip((left - missing_x, top - missing_y, right + missing_x, bottom + missing_y))


def fit_part(pixels: Pixels, part: Box, inputs: InputSpec) -> Pixels:
    """Scale a part of a frame to a model's input, with something around it for the right ratio.

    Args:
        pixels: uint8, shape (H, W, 3).
        part: in the frame and not empty; it grows to the inside of the frame where there is room.
        inputs: of an image, with 1 or 3 channels.

    Returns:
        uint8, shape (C, h, w).
    """
    height, width = pixels.shape[:2]
    left, top, wide, high = _with_ratio(part, width, height, inputs.width / inputs.height)
    x = _Side(left, wide, width, inputs.width)
    y = _Side(top, high, height, inputs.height)
    cut = np.ascontiguousarray(pixels[y.start : y.end, x.start : x.end])
    canvas = np.empty((inputs.height, inputs.width, inputs.channels), np.uint8)
    canvas[:] = [round(255 * min(max(mean, 0.0), 1.0)) for mean in inputs.mean]
    canvas[y.at : y.at + y.filled, x.at : x.at + x.filled] = _scaled(
        cut, x.filled, y.filled, inputs.channels
    )
    return np.ascontiguousarray(canvas.transpose(2, 0, 1))


def _scaled(pixels: Pixels, width: int, height: int, channels: int) -> Pixels:
    """A picture in another size, uint8 (height, width, channels)."""
    image = Image.fromarray(pixels).resize(
        (width, height), Image.Resampling.BILINEAR, reducing_gap=REDUCING_GAP
    )
    grey_or_not = image if channels == 3 else image.convert("L")
    return np.asarray(grey_or_not).reshape(height, width, channels)


class _Side:
    """One direction: which of the frame's pixels come to which of the input's.

    Args:
        first, length: of the wanted part, in pixels of the frame; may reach out of it.
        size: pixels of the frame, ``wanted`` those of the input.
    """

    def __init__(self, first: float, length: float, size: int, wanted: int) -> None:
        self.start = min(max(0, round(first)), size - 1)
        self.end = max(min(size, round(first + length)), self.start + 1)
        self.filled = min(wanted, max(1, round((self.end - self.start) / length * wanted)))
        self.at = min(max(0, round((self.start - first) / length * wanted)), wanted - self.filled)


def _with_ratio(
    part: Box, width: int, height: int, ratio: float
) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels of the least box around a part with a ratio."""
    wide, high = (part[2] - part[0]) * width, (part[3] - part[1]) * height
    wide, high = max(wide, high * ratio), max(high, wide / ratio)
    left = _placed((part[0] + part[2]) / 2 * width - wide / 2, wide, width)
    top = _placed((part[1] + part[3]) / 2 * height - high / 2, high, height)
    return left, top, wide, high


def _placed(first: float, length: float, size: int) -> float:
    """Move a stretch into the frame, or to its middle where it is longer."""
    if length >= size:
        return (size - length) / 2
    return min(max(first, 0.0), size - length)
