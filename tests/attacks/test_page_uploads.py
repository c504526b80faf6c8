"""Images that are images and carry a script, sent over TLS with a key; more is in
``test_http_uploads.py``.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image, PngImagePlugin
from serving import add_key, png, publish, serving, wait_served

from fedfleet.identity.authority import Authority
from fedfleet.identity.files import write_private, write_public
from fedfleet.store.open import open_store

SCRIPT = b"<script>alert(document.domain)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
NAMES = (
    '"><img src=x onerror=alert(1)>.png',
    "<svg onload=alert(1)>.svg",
    "a\r\nset-cookie: x=y\r\n\r\n<script>alert(1)</script>",
    "../../../../etc/passwd",
    "\u202egnp.lmth",
)
DESCRIPTION = 0x010E  # EXIF, ImageDescription


def pixels() -> Image.Image:
    return Image.new("L", (8, 8), 100)


def with_exif(kind: str) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[DESCRIPTION] = SCRIPT.decode()
    pixels().save(file, kind, exif=exif)
    return file.getvalue()


def with_comment(kind: str) -> bytes:
    file = io.BytesIO()
    pixels().save(file, kind, comment=SCRIPT)
    return file.getvalue()


def with_text() -> bytes:
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("Title", SCRIPT.decode())
    info.add_itxt("XML:com.adobe.xmp", SVG.decode())
    pixels().save(file, "PNG", pnginfo=info)
    return file.getvalue()


def text_bomb() -> bytes:
    """A PNG whose text unpacks to a gigabyte."""
    packed = zlib.compress(bytes(1 << 20) * 64, 9)
    chunk = b"zTXt" + b"Title\0\0" + packed
    block = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    good = png()
    return good[:33] + block + good[33:]


# All of them are images to a browser, too.
IMAGES = {
    "EXIF in a JPEG": with_exif("JPEG"),
    "EXIF in a PNG": with_exif("PNG"),
    "EXIF in a WebP": with_exif("WEBP"),
    "a comment in a JPEG": with_comment("JPEG"),
    "a comment in a GIF": with_comment("GIF"),
    "texts in a PNG": with_text(),
    "a page behind a PNG": png() + SCRIPT,
    "a drawing behind a PNG": png() + SVG,
    "a page behind a JPEG": with_exif("JPEG") + SCRIPT,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder: Path = tmp_path_factory.mktemp("page")
    made = Authority.open(folder / "ca").issue_server(["127.0.0.1"], time.time(), 3600.0)
    write_private(folder / "key.pem", made.key)
    write_public(folder / "certificate.pem", made.chain + made.root)
    with open_store(f"sqlite:{folder / 'state'}") as store:
        version = publish(store, seed=1)
        key = add_key(store, "predict")
        settings = {
            "inference_certificate": folder / "certificate.pem",
            "inference_key": folder / "key.pem",
            "rest_auth": "on",
        }
        with serving(store, **settings) as (service, connected):
            connected.headers["x-api-key"] = key.text
            wait_served(service, version)
            yield connected


def assert_no_page(response: httpx.Response) -> None:
    """JSON, said to be JSON, of which nothing is the caller's."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert "set-cookie" not in response.headers
    assert "content-disposition" not in response.headers
    assert isinstance(json.loads(response.text), dict)
    for mark in ("<", ">", "alert", "onload", "onerror", "passwd", "\u202e"):
        assert mark not in response.text


@pytest.mark.parametrize("name", IMAGES)
def test_image_that_carries_a_script_is_answered_by_its_pixels_alone(
    client: httpx.Client, name: str
) -> None:
    data = IMAGES[name]
    for media_type in ("image/png", "image/jpeg", "application/octet-stream"):
        for response in (
            client.post("/predict", content=data, headers={"content-type": media_type}),
            client.post("/predict", files={"file": (NAMES[0], data, media_type)}),
            client.post("/predict", json={"image": base64.b64encode(data).decode()}),
        ):
            assert response.status_code in (200, 415), response.text
            assert_no_page(response)


@pytest.mark.parametrize("file_name", NAMES)
def test_name_of_a_file_is_never_shown(client: httpx.Client, file_name: str) -> None:
    for data, status in ((png(), 200), (SVG, 415), (SCRIPT, 415), (b"", 415)):
        files = {"file": (file_name, data, "image/svg+xml")}
        response = client.post("/predict", files=files)

        assert response.status_code == status
        assert_no_page(response)


def test_text_that_unpacks_to_much_is_not_unpacked(client: httpx.Client) -> None:
    response = client.post("/predict", content=text_bomb(), headers={"content-type": "image/png"})

    assert response.status_code == 415
    assert_no_page(response)


def test_page_is_asked_for_a_key_before_its_body_is_read(client: httpx.Client) -> None:
    for key in ("", "x", "flk_" + "0" * 16 + "_" + "0" * 40, SCRIPT.decode()):
        headers = {"x-api-key": key, "content-type": "text/html"}
        response = client.post("/predict", content=SCRIPT * 1000, headers=headers)

        assert response.status_code == 401
        assert_no_page(response)
