"""Finds the image in a request: a multipart file, a raw body, or base64 in JSON. Never a URL."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fedfleet.errors import ImageInvalid, InvalidInput

FIELD = "file"
MAX_FIELDS = 8  # more than one is refused anyway, with a text that names the odd one

# The request body in the OpenAPI document; the body is parsed here and not by the framework.
OPENAPI_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                    "required": [FIELD],
                    "additionalProperties": False,
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "contentEncoding": "base64"}},
                    "required": ["image"],
                    "additionalProperties": False,
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


async def read_upload(request: Request) -> tuple[str, bytes]:
    """Read the whole body (the body limit bounds it); return its media type and the bytes.

    Of a multipart body only the file's bytes are returned, with its own media type forgotten.

    Raises:
        InvalidInput: not a multipart body with one file in the field ``file``.
        ImageInvalid: a media type that is not read here.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if media_type == "multipart/form-data":
        return "application/octet-stream", await _multipart_file(request, len(body))
    if media_type in ("application/json", "application/octet-stream", "") or (
        media_type.startswith("image/")
    ):
        return media_type, body
    raise ImageInvalid(
        f"the content type {media_type!r} is not read here: send multipart/form-data with the "
        "image as 'file', the image itself as image/* or application/octet-stream, or "
        'application/json {"image": BASE64}'
    )


async def _multipart_file(request: Request, body_bytes: int) -> bytes:
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=MAX_FIELDS)
    parser.spool_max_size = body_bytes + 1  # it is in memory already: no temporary file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidInput(f"the multipart body cannot be read: {error.message}") from error
    except (KeyError, UnicodeDecodeError, LookupError) as error:
        raise InvalidInput("the multipart body cannot be read: its headers are damaged") from error
    try:
        odd = sorted(set(form) - {FIELD})
        if odd:
            raise InvalidInput(f"form field {odd[0]!r} is unknown: there is only {FIELD!r}")
        files = [item for item in form.getlist(FIELD) if isinstance(item, UploadFile)]
        if len(files) != 1:
            raise InvalidInput(f"send the image as one file in the form field {FIELD!r}")
        return await files[0].read()
    finally:
        await form.close()


def image_bytes(media_type: str, body: bytes) -> bytes:
    """The image's own bytes; unpacks JSON, so call it outside the event loop.

    Raises:
        InvalidInput: not the JSON object that is asked for, or not base64.
        ImageInvalid: nothing was sent.
    """
    data = _from_json(body) if media_type == "application/json" else body
    if not data:
        raise ImageInvalid("the image is empty: no bytes came")
    return data


def _from_json(body: bytes) -> bytes:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON that can be read") from error
    if (
        not isinstance(value, dict)
        or set(value) != {"image"}
        or not isinstance(value["image"], str)
    ):
        raise InvalidInput('the JSON body must be {"image": BASE64} and hold nothing else')
    try:
        return base64.b64decode(value["image"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("image: is not base64 (RFC 4648, with padding)") from error
