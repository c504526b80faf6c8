from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedfleet.data.decode import FORMATS, MAX_PIXELS, decode_image, fit_pixels, squeeze_pixels
from fedfleet.errors import ImageInvalid, ImageTooLarge

UPRIGHT = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that says it is huge and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e"


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP"])
def test_decode_gives_back_the_pixels(encode, format):
    data = encode(UPRIGHT, format, **({"lossless": True} if format == "WEBP" else {}))

    pixels = fit_pixels(decode_image(data), channels=3, height=4, width=6)

    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, UPRIGHT.transpose(2, 0, 1))


@pytest.mark.parametrize("format", ["JPEG", "GIF", "MPO"])
def test_decode_reads_what_cameras_and_browsers_make(encode, format):
    image = decode_image(encode(UPRIGHT, format))

    assert fit_pixels(image, channels=3, height=4, width=6).shape == (3, 4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_turns_the_image_upright(encode, orientation):
    """Turned by Pillow's names for what each orientation says was done."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(UPRIGHT)
    if orientation in turns:
        stored = stored.transpose(turns[orientation])

    image = decode_image(encode(np.asarray(stored), exif=exif))

    assert np.array_equal(np.asarray(image), UPRIGHT)


@pytest.mark.parametrize("size", [(6001, 4000), (12_000, 12_000), (60_000, 60_000)])
def test_decode_refuses_an_image_bomb_by_its_header(size):
    with pytest.raises(ImageTooLarge, match="more than 24 megapixels") as caught:
        decode_image(png_header(*size))

    assert caught.value.code == "IMAGE_TOO_LARGE"


def test_decode_takes_the_largest_allowed_image(encode):
    data = encode(np.zeros((4000, MAX_PIXELS // 4000), np.uint8))

    assert decode_image(data).size == (6000, 4000)


def test_decode_refuses_what_is_no_image():
    for data in (b"", b"hello", b"%PDF-1.7 ...", png_header(8, 8)):
        with pytest.raises(ImageInvalid) as caught:
            decode_image(data)
        assert caught.value.code == "IMAGE_INVALID"
        assert all(name in caught.value.message for name in FORMATS)


def photograph(width: int, height: int) -> np.ndarray:
    """Coarse and fine detail."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
    large = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = large + rng.integers(-20, 21, large.shape)
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("format", ["JPEG", "MPO"])
def test_decode_of_a_large_jpeg_leaves_out_what_a_small_image_does_not_show(encode, format):
    data = encode(photograph(1920, 1080), format)
    whole, scaled = decode_image(data), decode_image(data, side=32)

    assert whole.size == (1920, 1080)
    assert scaled.size == (240, 135)
    left, right = (fit_pixels(one, channels=3, height=32, width=32) for one in (whole, scaled))
    assert np.abs(left.astype(int) - right).mean() < 2


def test_decode_keeps_both_sides_twice_as_long_as_is_asked_for(encode):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    wide = encode(photograph(1600, 130), "JPEG", exif=exif)

    assert decode_image(wide, side=32).size == (65, 800)
    assert decode_image(wide, side=64).size == (130, 1600)
    assert decode_image(encode(UPRIGHT, "PNG"), side=1).size == (6, 4)


def test_decode_refuses_a_bomb_whatever_it_is_scaled_to(encode):
    data = bytearray(encode(np.zeros((8, 8), np.uint8), "JPEG"))
    frame = data.index(b"\xff\xc0")  # start of frame: precision, then height and width
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)

    with pytest.raises(ImageTooLarge):
        decode_image(bytes(data), side=8)


def test_decode_refuses_formats_that_are_not_listed(encode):
    with pytest.raises(ImageInvalid):
        decode_image(encode(UPRIGHT, "TIFF"))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    places=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 300),
)
def test_decode_of_damaged_bytes_is_an_image_or_a_clear_error(encode, format, places, cut):
    data = bytearray(encode(UPRIGHT, format))
    for place, value in places:
        data[place % len(data)] = value

    with suppress(ImageInvalid, ImageTooLarge):
        image = decode_image(bytes(data[: len(data) - cut]))
        assert fit_pixels(image, channels=3, height=8, width=8).shape == (3, 8, 8)


def test_fit_cuts_the_middle_out_and_keeps_proportions():
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255

    pixels = fit_pixels(Image.fromarray(wide), channels=1, height=10, width=10)

    assert pixels.shape == (1, 10, 10)
    assert (pixels == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_fit_takes_every_mode_in_grey_and_colour(mode):
    image = Image.new(mode, (5, 5))

    assert fit_pixels(image, channels=1, height=4, width=4).shape == (1, 4, 4)
    assert fit_pixels(image, channels=3, height=4, width=4).shape == (3, 4, 4)


def test_fit_scales_sixteen_bit_grey_down():
    data = BytesIO()
    Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16)).save(data, "PNG")

    pixels = fit_pixels(decode_image(data.getvalue()), channels=1, height=1, width=4)

    assert pixels.tolist() == [[[0, 1, 128, 255]]]


def test_fit_refuses_floating_point_pixels():
    with pytest.raises(ImageInvalid):
        fit_pixels(Image.new("F", (5, 5)), channels=1, height=4, width=4)


def test_fit_pixels_shows_black_behind_what_is_transparent():
    image = Image.new("RGBA", (2, 2), (255, 255, 255, 0))
    image.putpixel((0, 0), (255, 255, 255, 128))
    paletted = Image.new("P", (2, 2), 1)
    paletted.putpalette([0, 0, 0, 255, 255, 255])
    paletted.info["transparency"] = 1

    pixels = fit_pixels(image, channels=1, height=2, width=2)

    assert pixels[0].tolist() == [[128, 0], [0, 0]]
    assert fit_pixels(paletted, channels=3, height=2, width=2).max() == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(40, 160), (160, 40), (64, 64)])
def test_squeezed_image_shows_the_whole_of_it(height, width, channels):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 4, -width // 4 :] = 240

    squeezed = squeeze_pixels(Image.fromarray(pixels), channels=channels, height=16, width=32)

    assert squeezed.shape == (channels, 16, 32)
    assert (squeezed[:, :3, 26:] == 240).all()
    assert (squeezed[:, 5:, :] == 0).all()
    assert (squeezed[:, :, :23] == 0).all()
