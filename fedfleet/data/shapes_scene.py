"""Frames of a camera that sees the shapes of ``shapes`` move, with their true boxes: the video on
which tests and benchmarks of cameras run a detector that was trained on that set.

Legend: H, W = height, width of a frame, k = shapes that a frame shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfleet.data.boxes import areas
from fedfleet.data.draws import Draws
from fedfleet.data.images import Boxes, Index, Pixels
from fedfleet.data.shape_drawing import NAMES, Colour, Placed, draw_ground, paint
from fedfleet.data.shapes import vivid

# Of a shape that leaves the picture, so much of its box must be in it to count as seen.
_LEAST_SEEN = 0.5
# The plate of noise is this much larger than a frame, which each time shows another part of it.
_MARGIN = 64
# A lane's share that its shape fills.
_FILLED = 0.9
_MOST_LANES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Mover:
    """A shape on its way; lengths are shares of the frame's width or height, times in seconds.

    Args:
        label: its place in ``shape_drawing.NAMES``.
        x, y: its centre when the scene begins.
        dx, dy: how far it goes in a second.
        size: its diameter as a share of the side of a square of the frame's area; the detector
            was trained on ``shapes.SMALLEST`` to ``shapes.LARGEST``.
        spin: radians by which it turns in a second.
        is_bouncing: turned back by the frame's edges; else it leaves the picture.
        from_s, until_s: when it is there.
    """

    label: int
    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0
    size: float = 0.24
    angle: float = 0.0
    spin: float = 0.0
    colour: Colour = (230.0, 60.0, 40.0)
    is_bouncing: bool = True
    from_s: float = 0.0
    until_s: float = math.inf

    def at(self, time_s: float, height: int, width: int) -> Placed | None:
        """The shape in a frame of that size; None while it is not there."""
        if not self.from_s <= time_s < self.until_s:
            return None
        radius = self.size / 2 * math.sqrt(height * width)
        x, y = width * (self.x + self.dx * time_s), height * (self.y + self.dy * time_s)
        if self.is_bouncing:
            x, y = _bounced(x, radius, width - radius), _bounced(y, radius, height - radius)
        angle = self.angle + self.spin * time_s
        return Placed(self.label, x, y, radius, radius, angle, self.colour)


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """A frame and what is true of it.

    Args:
        time_s: since the scene began.
        pixels: uint8, shape (H, W, 3), red, green, blue.
        boxes: float32, shape (k, 5), as ``images.Boxes`` has them for each image.
        movers: int64, shape (k,): which mover each box is of.
    """

    time_s: float
    pixels: Pixels
    boxes: Boxes
    movers: Index


def lane_movers(count: int, *, seed: int = 0, height: int = 720, width: int = 1280) -> list[Mover]:
    """Shapes of every class in turn, each in a lane of its own from side to side: none hides
    another.

    Args:
        count: from 1 to 3; more lanes would be too narrow for what the detector knows.
    """
    if not 1 <= count <= _MOST_LANES:
        raise ValueError(f"count = {count}: must be from 1 to {_MOST_LANES}")
    draws = Draws(seed, "lanes")
    first = int(draws.uniform() * len(NAMES))
    size = min(0.3, _FILLED * math.sqrt(height / width) / count)
    movers = []
    for lane in range(count):
        place, speed, angle, spin, side, *paint_of = draws.uniforms(8).tolist()
        red, green, blue = vivid(np.array(paint_of)).tolist()
        movers.append(
            Mover(
                label=(first + lane) % len(NAMES),
                x=0.15 + 0.7 * place,
                y=(lane + 0.5) / count,
                dx=math.copysign(0.1 + 0.15 * speed, side - 0.5),
                size=size,
                angle=2 * math.pi * angle,
                spin=spin - 0.5,
                colour=(red, green, blue),
            )
        )
    return movers


def moving_scene(
    movers: Sequence[Mover],
    *,
    frames: int,
    fps: float = 15.0,
    height: int = 720,
    width: int = 1280,
    seed: int = 0,
    noise: float = 0.0,
) -> Iterator[SceneFrame]:
    """Yield the frames of a camera that stands still; the same ones for the same arguments.

    Args:
        seed: of the ground and of the noise.
        noise: standard deviation in grey levels of what a camera's sensor adds to each pixel.
    """
    draws = Draws(seed, "scene")
    ground = draw_ground(draws, height, width)
    plate = _plate(draws, height, width, noise) if noise else None
    for number in range(frames):
        pixels = ground.copy()
        found: list[tuple[float, ...]] = []
        shown: list[int] = []
        for place, mover in enumerate(movers):
            shape = mover.at(number / fps, height, width)
            if shape is None:
                continue
            paint(pixels, shape)
            box = _seen(shape, height, width)
            if box is not None:
                found.append((float(mover.label), *box))
                shown.append(place)
        boxes = np.array(found, np.float32).reshape(-1, 5)
        if plate is not None:
            pixels = _with_noise(pixels, plate, draws)
        picture = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        yield SceneFrame(number / fps, picture, boxes, np.array(shown, np.int64))


def _bounced(place: float, least: float, most: float) -> float:
    """Where a point is that goes to and fro between two walls."""
    room = most - least
    if room <= 0:
        return (least + most) / 2
    return least + room - abs((place - least) % (2 * room) - room)


def _seen(shape: Placed, height: int, width: int) -> tuple[float, ...] | None:
    """The box of what is in the frame, as shares; None where that is too little."""
    left, top, right, bottom = shape.bounds
    whole = np.array([0, left / width, top / height, right / width, bottom / height], np.float32)
    inside = whole.clip(0, 1)
    if not areas(inside) >= _LEAST_SEEN * areas(whole):
        return None
    return tuple(inside[1:].tolist())


def _plate(draws: Draws, height: int, width: int, noise: float) -> npt.NDArray[np.int16]:
    rows, columns = height + _MARGIN, width + _MARGIN
    normals = draws.normals(rows * columns).reshape(rows, columns)
    return np.rint(noise * normals).astype(np.int16)


def _with_noise(pixels: Pixels, plate: npt.NDArray[np.int16], draws: Draws) -> Pixels:
    _, height, width = pixels.shape
    down, right = (int(draws.uniform() * _MARGIN) for _ in range(2))
    noisy = pixels + plate[down : down + height, right : right + width]
    return noisy.clip(0, 255).astype(np.uint8)
