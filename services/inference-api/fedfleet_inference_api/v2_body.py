"""The body of a V2 inference: JSON, or JSON with binary data behind it, or binary data alone.

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol,
its HTTP form with the extension for binary tensor data; raw binary requests are in Triton's page on
that extension, docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fedfleet.errors import BodyTooLarge, ImageInvalid, InvalidInput
from fedfleet.models.card import ModelCard
from fedfleet_inference_api.uploads import BINARY, JSON, parse_json
from fedfleet_inference_api.v2_parameters import LENGTH_HEADER
from fedfleet_inference_api.v2_pixels import UINT8, binary_bytes, pixels_from_binary
from fedfleet_inference_api.v2_request import Asked, Inference, Output, parse_inference
from fedfleet_inference_api.v2_shapes import body_bounds, check_answer, input_shape, outputs_of

_LENGTH = re.compile("[0-9]{1,18}")


def json_bytes_of(headers: Mapping[str, str]) -> int | None:
    """How many bytes of a body are JSON; None for all of them.

    Raises:
        InvalidInput: the header does not say it.
        ImageInvalid: the body is of a type or in an encoding that is not read here.
    """
    text = headers.get(LENGTH_HEADER)
    if text is not None and not _LENGTH.fullmatch(text):
        raise InvalidInput(f"{LENGTH_HEADER} = {text[:40]!r}: must be a number of bytes")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("", JSON) and (text is None or media_type != BINARY):
        raise ImageInvalid(
            f"the content type {media_type[:80]!r} is not read here: send {JSON}, or with the "
            f"header {LENGTH_HEADER} {BINARY}"
        )
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ImageInvalid(f"the content encoding {encoding[:40]!r} is not read here: send none")
    return None if text is None else int(text)


def read_inference(body: bytes, json_bytes: int | None, asked: Asked) -> Inference:
    """Read a whole body; call it outside the event loop.

    Args:
        json_bytes: as ``json_bytes_of``; 0 for a body that is one image's binary data.

    Raises:
        BodyTooLarge: more than the largest request of this model has.
        InvalidInput: says which field is wrong.
    """
    bounds = body_bounds(asked.card, asked.most)
    if len(body) > bounds.size_bytes:
        raise BodyTooLarge(
            f"the request's body has more than the {bounds.size_bytes:,} bytes that {asked.most} "
            "images of this model take"
        )
    if json_bytes == 0:
        return _raw(body, asked.card)
    if json_bytes is None:
        json_bytes = len(body)
    if json_bytes > len(body):
        raise InvalidInput(
            f"{LENGTH_HEADER} = {json_bytes}: the whole body has no more than {len(body)} bytes"
        )
    value = parse_json(body[:json_bytes], lists=bounds.lists, commas=bounds.commas)
    return parse_inference(value, asked, memoryview(body)[json_bytes:])


def _raw(body: bytes, card: ModelCard) -> Inference:
    """One image of the datatype in the model's description; nothing but its bytes came."""
    shape = (1, *input_shape(card)[1:])
    if len(body) != binary_bytes(UINT8, shape):
        raise InvalidInput(
            f"{LENGTH_HEADER} = 0: the body must be the {binary_bytes(UINT8, shape)} bytes of one "
            f"image, {UINT8} of shape {list(shape)}; these are {len(body)}"
        )
    images = pixels_from_binary(memoryview(body), UINT8, shape)
    outputs = (Output(next(iter(outputs_of(card))), is_binary=True),)
    check_answer(card, [one.name for one in outputs], 1)
    return Inference(None, images, outputs)
