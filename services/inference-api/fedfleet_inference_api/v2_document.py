"""What the OpenAPI document says of a V2 inference: its body is parsed here, not by the framework.

Binary data stand behind the JSON in one body, which no schema can say: there they are bytes.
"""

from __future__ import annotations

from typing import Any

from fedfleet_inference_api.predict_routes import HEADERS
from fedfleet_inference_api.uploads import BINARY, JSON
from fedfleet_inference_api.v2_parameters import (
    BINARY_OUTPUT,
    BINARY_OUTPUTS,
    BINARY_SIZE,
    LENGTH_HEADER,
)
from fedfleet_inference_api.v2_pixels import DATATYPES
from fedfleet_inference_api.v2_shapes import INPUT

_BYTES = {"type": "integer", "minimum": 0}
_BINARY_BODY = {"schema": {"type": "string", "format": "binary"}}


def _parameters(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "additionalProperties": True}


def _object(required: list[str], **properties: object) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": properties,
    }


_INPUT = _object(
    ["name", "shape", "datatype"],
    name={"type": "string", "enum": [INPUT]},
    shape={"type": "array", "items": {"type": "integer"}},
    datatype={"type": "string", "enum": list(DATATYPES)},
    parameters=_parameters(BINARY_SIZE, _BYTES),
    data={"type": "array", "items": {}},
)
_OUTPUT = _object(
    ["name"],
    name={"type": "string"},
    parameters=_parameters(BINARY_OUTPUT, {"type": "boolean"}),
)
_REQUEST = _object(
    ["inputs"],
    model_name={"type": "string"},
    id={"type": "string"},
    parameters=_parameters(BINARY_OUTPUTS, {"type": "boolean"}),
    inputs={"type": "array", "minItems": 1, "maxItems": 1, "items": _INPUT},
    outputs={"type": "array", "items": _OUTPUT},
)
_LENGTH: dict[str, Any] = {
    "name": LENGTH_HEADER,
    "in": "header",
    "required": False,
    "schema": _BYTES,
    "description": "how many bytes of the body are JSON, where binary data follow it; 0 of a body "
    "that is one image's pixels",
}
INFER_REQUEST: dict[str, Any] = {
    "parameters": [*HEADERS["parameters"], _LENGTH],
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": _REQUEST}, BINARY: _BINARY_BODY},
    },
}
# Beside the JSON of an answer without binary data.
INFER_ANSWER: dict[str, Any] = {
    "content": {BINARY: _BINARY_BODY},
    "headers": {
        LENGTH_HEADER: {
            "schema": _BYTES,
            "description": "how many bytes of the body are JSON, where binary data follow it",
        }
    },
}
