"""Finds the images in a request: multipart files, a raw body, or base64 in JSON."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fedfleet.errors import FedFleetError, ImageInvalid, InvalidInput

FIELD = "file"
MAX_FIELDS = 8  # more than one is refused anyway, with a text that names the odd one
MULTIPART = "multipart/form-data"
JSON = "application/json"
BINARY = "application/octet-stream"
MAX_URL = 2048
# Commas, brackets and quotes in a JSON body beside those that it has to hold: of a URL, or of an
# image that is none and is to have its own error. Parsing is one call that nothing else runs
# beside, and a body of nothing but brackets or names takes it seconds.
SPARE_MARKS = 4096
# Commas from which on numbers are read one by one by functions of ours, at a third of the speed:
# wherever such a function is called, the event loop may have its turn.
_MANY_NUMBERS = 200_000

_BASE64: dict[str, Any] = {"type": "string", "contentEncoding": "base64"}
_FILE: dict[str, Any] = {"type": "string", "format": "binary"}


def openapi_body(*, has_urls: bool) -> dict[str, Any]:
    """The body of /predict in the OpenAPI document; it is parsed here and not by the framework."""
    forms = [_object("image", _BASE64)]
    if has_urls:
        url = {"type": "string", "format": "uri", "maxLength": MAX_URL, "pattern": "^https://"}
        forms.append(_object("url", url))
    return _body(
        {
            MULTIPART: {"schema": _object(FIELD, _FILE)},
            JSON: {"schema": {"oneOf": forms} if has_urls else forms[0]},
            "image/*": {"schema": _FILE},
            BINARY: {"schema": _FILE},
        }
    )


def openapi_batch(most: int) -> dict[str, Any]:
    """As ``openapi_body``, of /predict/batch."""

    def several(one: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "items": one, "minItems": 1, "maxItems": most}

    return _body(
        {
            MULTIPART: {"schema": _object(FIELD, several(_FILE))},
            JSON: {"schema": _object("images", several(_BASE64))},
        }
    )


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _object(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: schema},
        "required": [name],
        "additionalProperties": False,
    }


async def read_upload(request: Request) -> tuple[str, bytes]:
    """Read the whole body (the body limit bounds it); return its media type and the bytes.

    Of a multipart body only the file's bytes are returned, with its own media type forgotten.

    Raises:
        InvalidInput: not a multipart body with one file in the field ``file``.
        ImageInvalid: a media type that is not read here.
    """
    media_type = _media_type(request)
    body = await request.body()
    if media_type == MULTIPART:
        files = await _multipart_files(request, len(body), 1)
        return BINARY, files[0]
    if media_type in (JSON, BINARY, "") or media_type.startswith("image/"):
        return media_type, body
    raise ImageInvalid(
        f"the content type {media_type!r} is not read here: send multipart/form-data with the "
        "image as 'file', the image itself as image/* or application/octet-stream, or "
        'application/json {"image": BASE64}'
    )


async def read_uploads(request: Request, most: int) -> bytes | list[bytes]:
    """Read the body of a batch: JSON as it is, or the files of a multipart body.

    Raises:
        InvalidInput: neither, or no files, or too many.
    """
    media_type = _media_type(request)
    body = await request.body()
    if media_type == JSON:
        return body
    if media_type == MULTIPART:
        return await _multipart_files(request, len(body), most)
    raise ImageInvalid(
        f"the content type {media_type!r} is not read here: send multipart/form-data with each "
        "image as a file named 'file', or application/json {\"images\": [BASE64, ...]}"
    )


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _multipart_files(request: Request, body_bytes: int, most: int) -> list[bytes]:
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=most, max_fields=MAX_FIELDS
    )
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
        items = form.getlist(FIELD)
        files = [item for item in items if isinstance(item, UploadFile)]
        if not files or len(files) != len(items):
            number = "one file" if most == 1 else f"1 to {most} files"
            raise InvalidInput(f"send {number} in the form field {FIELD!r}")
        return [await file.read() for file in files]
    finally:
        await form.close()


def image_bytes(media_type: str, body: bytes) -> bytes:
    """The image's own bytes; unpacks JSON, so call it outside the event loop.

    Raises:
        InvalidInput: not the JSON object that is asked for, or not base64.
        ImageInvalid: nothing was sent.
    """
    data = _unpack(_only(body, "image", str)) if media_type == JSON else body
    if not data:
        raise ImageInvalid("the image is empty: no bytes came")
    return data


def url_in(body: bytes) -> str | None:
    """The URL in a JSON body; None where it holds something else, for ``image_bytes`` to judge.

    Raises:
        InvalidInput: not JSON.
    """
    value = parse_json(body)
    if isinstance(value, dict) and set(value) == {"url"} and isinstance(value["url"], str):
        return value["url"]
    return None


def images_in(body: bytes, most: int) -> list[bytes | FedFleetError]:
    """The images of a batch in JSON; one that is not base64 is the error that it has.

    Raises:
        InvalidInput: not the JSON object that is asked for, or too many images.
    """
    values = _only(body, "images", list, most)
    if not 1 <= len(values) <= most:
        raise InvalidInput(f"images: must be 1 to {most} of them, these are {len(values)}")
    return [_one_of(value) for value in values]


def _one_of(value: object) -> bytes | FedFleetError:
    if not isinstance(value, str):
        return InvalidInput("image: must be a text, base64 of the image")
    try:
        return _unpack(value)
    except InvalidInput as error:
        return error


def _only(body: bytes, name: str, kind: type, most: int = 0) -> Any:
    """The one value of the JSON object, of so many parts. Any: of the kind that was asked for."""
    value = parse_json(body, texts=most, commas=most)
    if not isinstance(value, dict) or set(value) != {name} or not isinstance(value[name], kind):
        form = "[BASE64, ...]" if kind is list else "BASE64"
        raise InvalidInput(f'the JSON body must be {{"{name}": {form}}} and hold nothing else')
    return value[name]


def parse_json(body: bytes, *, lists: int = 0, texts: int = 0, commas: int = 0) -> object:
    """What a JSON body holds; call it outside the event loop.

    Args:
        lists, texts, commas: that it may hold, and ``SPARE_MARKS`` more.

    Raises:
        InvalidInput: not JSON, or of more parts than anything that is asked for here.
    """
    brackets, quotes = body.count(b"[") + body.count(b"{"), body.count(b'"')
    if (
        brackets > lists + SPARE_MARKS
        or quotes > 2 * texts + SPARE_MARKS
        or body.count(b",") > commas + SPARE_MARKS
    ):
        raise InvalidInput("the JSON body has more parts than what is asked for here")
    numbers = _ONE_BY_ONE if body.count(b",") > _MANY_NUMBERS else {}
    try:
        value: object = json.loads(body, **numbers)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON that can be read") from error
    return value


def _whole(text: str) -> int:
    return int(text)


def _fraction(text: str) -> float:
    return float(text)


_ONE_BY_ONE: dict[str, Any] = {"parse_int": _whole, "parse_float": _fraction}


def _unpack(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("image: is not base64 (RFC 4648, with padding)") from error
