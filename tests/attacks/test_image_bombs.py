"""Images that are broken, or larger than they look, are answered and cost nobody else anything."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import png, publish, serving, wait_served

from fedfleet.store.open import open_store

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with open_store(f"sqlite:{tmp_path_factory.mktemp('bombs')}") as store:
        version = publish(store, seed=1)
        with serving(store) as (service, connected):
            wait_served(service, version)
            yield connected


def send(client: httpx.Client, images: list[bytes]) -> list[str]:
    """The code of each image's error, empty where it was answered."""
    codes: list[str] = []
    for first in range(0, len(images), 32):
        files = [("file", data) for data in images[first : first + 32]]
        response = client.post("/predict/batch", files=files)
        assert response.status_code == 200, response.text
        codes += [one.get("error", {}).get("code", "") for one in response.json()["results"]]
    return codes


def encoded(kind: str, side: int = 24, **options: object) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, data: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", FORMATS)
def test_file_that_ends_anywhere_is_an_image_or_none(client: httpx.Client, kind: str) -> None:
    whole = encoded(kind)
    step = max(1, len(whole) // 60)

    codes = send(client, [whole[:size] for size in range(1, len(whole), step)] + [whole])

    assert set(codes) <= {"", "IMAGE_INVALID", "IMAGE_TOO_LARGE"}
    assert codes[-1] == ""


@pytest.mark.parametrize("kind", FORMATS)
def test_file_with_a_wrong_byte_anywhere_is_an_image_or_none(
    client: httpx.Client, kind: str
) -> None:
    whole = encoded(kind)
    rng = np.random.default_rng(2)
    damaged = []
    for place in rng.integers(0, min(len(whole), 300), 64):
        data = bytearray(whole)
        data[place] ^= int(rng.integers(1, 256))
        damaged.append(bytes(data))

    assert set(send(client, damaged)) <= {"", "IMAGE_INVALID", "IMAGE_TOO_LARGE"}


def test_bombs_are_known_by_their_headers_and_nothing_is_unpacked(client: httpx.Client) -> None:
    packed = zlib.compress(bytes(1 << 22), 9)
    bombs = [png_of(60_000, 60_000, packed), png_of(6000, 4001, packed), png_of(1 << 30, 1, packed)]
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    codes = send(client, bombs * 10)

    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert set(codes) == {"IMAGE_TOO_LARGE"}
    assert grown_kb < 50_000


def test_file_that_unpacks_to_more_than_its_header_says_is_no_bomb(client: httpx.Client) -> None:
    packed = zlib.compress(bytes(1 << 26), 9)  # 64 MB for an image of 192 bytes
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    codes = send(client, [png_of(8, 8, packed)] * 8)

    assert set(codes) <= {"", "IMAGE_INVALID"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


def test_of_a_film_only_the_first_picture_is_looked_at(client: httpx.Client) -> None:
    frames = [Image.new("P", (64, 64), number % 256) for number in range(500)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])

    response = client.post("/predict", content=file.getvalue())

    assert response.status_code == 200
    assert response.json()["latency_ms"]["decode"] < 5000


def exif(entries: list[tuple[int, int, int, bytes]], following: int = 0) -> bytes:
    """A TIFF directory of (tag, type, count, value)."""
    body = b"".join(
        struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
        for tag, kind, count, value in entries
    )
    return (
        b"Exif\0\0II*\0\x08\0\0\0"
        + struct.pack("<H", len(entries))
        + body
        + struct.pack("<I", following)
    )


EXIFS = {
    "an orientation out of range": exif([(ORIENTATION, 3, 1, b"\xff\0")]),
    "an orientation of zero": exif([(ORIENTATION, 3, 1, b"\0\0")]),
    "an orientation that is a text": exif([(ORIENTATION, 2, 4, b"abc\0")]),
    "an orientation that is many": exif([(ORIENTATION, 3, 0xFFFFFFFF, b"\x08\0\0\0")]),
    "a rational by zero": exif([(ORIENTATION, 5, 1, b"\x08\0\0\0")]),
    "a directory that follows itself": exif([(ORIENTATION, 3, 1, b"\x06\0")], 8),
    "a directory beyond the end": exif([(0x8769, 4, 1, b"\xff\xff\xff\x7f")], 0x7FFFFFFF),
    "a directory within itself": exif([(0x8769, 4, 1, b"\x08\0\0\0")]),
    "a count and nothing else": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    "no directory": b"Exif\0\0MM\0*\0\0\0\0",
    "nothing": b"Exif\0\0",
    "noise": b"Exif\0\0" + bytes(range(256)) * 100,
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow warns, which makes a line in the log
@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("name", EXIFS)
def test_damaged_exif_costs_the_image_at_most(client: httpx.Client, name: str) -> None:
    images = [encoded(kind, exif=EXIFS[name]) for kind in ("JPEG", "PNG", "WEBP")]

    assert set(send(client, images)) <= {"", "IMAGE_INVALID"}
    assert client.post("/predict", content=png()).status_code == 200
