"""Bytes of an image file to pixels, within stated limits; the same for training and serving."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from fedfleet.data.images import Pixels
from fedfleet.errors import ImageInvalid, ImageTooLarge

MAX_PIXELS = 24_000_000
# The formats that cameras and browsers make. Each further one is more parser for hostile bytes.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# Those whose decoder can leave out what a smaller image does not show; MPO is what phones make.
_SCALED = ("JPEG", "MPO")
_MARGIN = 2  # so that what is left to do is still scaled by us, whatever the file's size
_SIXTEEN_BIT_GREY = ("I", "I;16", "I;16B", "I;16L")
# What Pillow's parsers raise on bytes that are not what they say.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def decode_image(data: bytes, *, side: int | None = None) -> Image.Image:
    """Decode the first frame of an image file and turn it upright by its EXIF orientation.

    Args:
        side: the larger side in pixels that the image is going to be scaled down to. A JPEG is then
            decoded at a half, a quarter or an eighth of its size, which costs a fraction of the
            time, where both its sides stay twice as long or more.

    Raises:
        ImageTooLarge: more than 24 megapixels by its header; nothing was decoded.
        ImageInvalid: not an image of a format in ``FORMATS``, or a broken one.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        _check_size(image.width, image.height)
        if side is not None and image.format in _SCALED:
            image.draft(None, (_MARGIN * side, _MARGIN * side))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(_TOO_LARGE) from error
    except _BROKEN as error:
        raise ImageInvalid(
            f"the bytes are not a readable image; send one of {', '.join(FORMATS)}",
            detail=repr(error),
        ) from error


def fit_pixels(image: Image.Image, *, channels: int, height: int, width: int) -> Pixels:
    """Scale an image to cover the size, cut the middle out, and return uint8 (C, H, W).

    Args:
        channels: 1 (grey) or 3 (colour). What is transparent shows black behind it.

    Raises:
        ImageInvalid: the image's pixels are floating-point numbers.
    """
    converted = _plain(image, channels)
    if converted.size != (width, height):
        converted = ImageOps.fit(converted, (width, height), method=Image.Resampling.BILINEAR)
    return _to_array(converted, channels)


def squeeze_pixels(image: Image.Image, *, channels: int, height: int, width: int) -> Pixels:
    """Scale a whole image to the size, whatever its format was, and return uint8 (C, H, W).

    For a detector: nothing at the borders is lost, and the sides of a box are the same shares of
    the image before and after.

    Args:
        channels: as ``fit_pixels``, which raises the same.
    """
    converted = _plain(image, channels)
    if converted.size != (width, height):
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    return _to_array(converted, channels)


def _plain(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    opaque = _on_black(_eight_bit(image))
    return opaque if opaque.mode == mode else opaque.convert(mode)


def _to_array(image: Image.Image, channels: int) -> Pixels:
    pixels = np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


_TOO_LARGE = f"the image has more than {MAX_PIXELS // 1_000_000} megapixels; send a smaller one"


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageTooLarge(_TOO_LARGE)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey down, which Pillow's own conversion would clip instead."""
    if image.mode in _SIXTEEN_BIT_GREY:
        values = np.asarray(image).astype(np.int64).clip(0, 0xFFFF)
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ImageInvalid("the image's pixels are floating-point numbers; send 8 or 16 bits")
    return image


def _on_black(image: Image.Image) -> Image.Image:
    """Drop transparency, which would else uncover whatever colour the file holds below it."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
