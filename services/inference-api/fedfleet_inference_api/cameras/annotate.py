"""Draws what was seen into the picture, for people who look on.

Legend: H, W = height, width in pixels. Boxes and zones are shares of the picture's sides.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from typing import Union

from PIL import Image, ImageDraw, ImageFont

from fedfleet_inference_api.cameras.seen import Box, Seen, View

Font = Union[ImageFont.FreeTypeFont, ImageFont.ImageFont]
Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]
Outlines = Iterable[tuple[str, Points]]

# Told apart by people with any common colour vision, on dark and on light ground (Okabe and Ito,
# Color Universal Design, 2008; without black and grey).
COLORS: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
ZONE: Color = (255, 255, 255)
MOVING: Color = (190, 190, 190)
SHADE: Color = (16, 19, 30)
LONGEST_LABEL = 40
DASHES = 6
# A line of text is never smaller than a person can read, nor larger than a caption should be.
SMALLEST_TEXT, LARGEST_TEXT = 11, 42


def annotate(
    view: View, *, width: int | None = None, quality: int = 80, zones: Outlines = ()
) -> bytes:
    """Return the view's frame as a JPEG, with all that is known of it drawn in.

    Args:
        width: of the JPEG in pixels, the height follows; None or more than the frame's: as it is.
        zones: name and corners of each zone of the camera.
    """
    image = _picture(view, width)
    pen = _Pen(image)
    for name, points in zones:
        pen.outline(name, points)
    for box in view.moving:
        pen.dashed(box)
    for one in sorted(view.seen, key=lambda one: one.score):  # the surest on top
        pen.thing(one)
    pen.caption(_caption(view), _best(view))
    return jpeg(image, quality)


def raw(view: View, *, width: int | None = None, quality: int = 90) -> bytes:
    """Return the view's frame as a JPEG, as the camera gave it."""
    return jpeg(_picture(view, width), quality)


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _picture(view: View, width: int | None) -> Image.Image:
    image = Image.fromarray(view.frame.pixels)
    if width is None or width >= image.width:
        return image
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _caption(view: View) -> list[str]:
    """Most important first; what has no room is left out from the end."""
    at = datetime.fromtimestamp(view.frame.at_s, timezone.utc)
    model = view.model
    version = f"{model['name']} v{model['version']}" if model else "no model yet"
    round = f"round {model['round']}" if model else ""
    return [_shown(view.frame.camera), f"{at:%H:%M:%S} UTC", _shown(version), round, f"{at:%F}"]


def _best(view: View) -> str:
    """What a classification says, empty for a detection."""
    return "  ".join(f"{_shown(label)} {_percent(share)}" for label, share in view.top5[:3])


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if math.isfinite(share) else "?"


def _shown(text: str) -> str:
    """A name that somebody else chose, as one short line."""
    plain = "".join(char if char.isprintable() else "?" for char in text)
    return plain if len(plain) <= LONGEST_LABEL else plain[: LONGEST_LABEL - 3] + "..."


@lru_cache(maxsize=32)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


class _Pen:
    """Draws on one picture; every size follows from the picture's."""

    def __init__(self, image: Image.Image) -> None:
        self._size = image.size
        self._draw = ImageDraw.Draw(image, "RGBA")
        # Also read in a tile, at less than half of the picture's size.
        text = round(image.height / 17 + image.width / 62)
        self._text = min(LARGEST_TEXT, max(SMALLEST_TEXT, text))
        self._font = _font(self._text)
        self._line = max(2, round(min(image.size) / 240))
        self._pad = max(2, self._text // 4)

    def thing(self, one: Seen) -> None:
        color = COLORS[one.index % len(COLORS)]
        left, top, right, bottom = self._pixels(one.box)
        outer = self._line + 1
        self._draw.rectangle((left, top, right, bottom), outline=SHADE, width=outer)
        self._draw.rectangle((left, top, right, bottom), outline=color, width=self._line)
        text = f"{_shown(one.label)} {_percent(one.score)}"
        track = f" #{one.track}" if one.track else ""
        zones = f" in {_shown(', '.join(one.zones))}" if one.zones else ""
        for part in (track, zones):  # what would hide the picture is left out
            if self._draw.textlength(text + part, font=self._font) < 0.6 * self._size[0]:
                text += part
        self._tag(text, (left, top), color)

    def outline(self, name: str, points: Points) -> None:
        corners = [self._point(*point) for point in points]
        if len(corners) < 3:
            return
        self._draw.polygon(corners, fill=(*ZONE, 24))
        self._draw.line([*corners, corners[0]], fill=(*SHADE, 160), width=self._line + 2)
        self._draw.line([*corners, corners[0]], fill=(*ZONE, 220), width=self._line)
        self._draw.text(
            (corners[0][0] + self._pad, corners[0][1] + self._pad),
            _shown(name),
            fill=ZONE,
            font=self._font,
            stroke_width=2,
            stroke_fill=SHADE,
        )

    def dashed(self, box: Box) -> None:
        left, top, right, bottom = self._pixels(box)
        for (x0, y0), (x1, y1) in (
            ((left, top), (right, top)),
            ((right, top), (right, bottom)),
            ((right, bottom), (left, bottom)),
            ((left, bottom), (left, top)),
        ):
            for part in range(DASHES):
                a, b = part / DASHES, (part + 0.5) / DASHES
                ends = [
                    (x0 + (x1 - x0) * a, y0 + (y1 - y0) * a),
                    (x0 + (x1 - x0) * b, y0 + (y1 - y0) * b),
                ]
                self._draw.line(ends, fill=(*SHADE, 200), width=self._line + 1)
                self._draw.line(ends, fill=(*MOVING, 255), width=self._line - 1)

    def caption(self, parts: Sequence[str], best: str) -> None:
        """A bar along the lower edge: what fits of the parts, and a line of its own above."""
        width, height = self._size
        room = width - 2 * self._pad
        kept = [part for part in parts if part]
        while len(kept) > 1 and self._draw.textlength("  ".join(kept), font=self._font) > room:
            kept.pop()
        lines = [line for line in (best, "  ".join(kept)) if line]
        step = self._text + self._pad
        top = height - len(lines) * step - self._pad
        self._draw.rectangle((0, top, width, height), fill=(*SHADE, 200))
        for number, line in enumerate(lines):
            at = (self._pad, top + self._pad / 2 + number * step)
            self._draw.text(at, line, fill=(255, 255, 255), font=self._font)

    def _tag(self, text: str, at: tuple[int, int], color: Color) -> None:
        """A label on its colour, above the box or, where there is no room, in it."""
        width = self._draw.textlength(text, font=self._font) + 2 * self._pad
        height = self._text + self._pad
        left = max(0, min(at[0], self._size[0] - width))
        top = at[1] - height if at[1] >= height else at[1]
        self._draw.rectangle((left, top, left + width, top + height), fill=color)
        is_light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
        self._draw.text(
            (left + self._pad, top + self._pad / 4),
            text,
            fill=SHADE if is_light else (255, 255, 255),
            font=self._font,
        )

    def _pixels(self, box: Box) -> tuple[int, int, int, int]:
        """Inside the picture, and never turned inside out."""
        left, top = self._point(box[0], box[1])
        right, bottom = self._point(box[2], box[3])
        return min(left, right), min(top, bottom), max(left, right), max(top, bottom)

    def _point(self, x: float, y: float) -> tuple[int, int]:
        width, height = self._size
        return (
            round(min(1.0, max(0.0, x)) * (width - 1)),
            round(min(1.0, max(0.0, y)) * (height - 1)),
        )
