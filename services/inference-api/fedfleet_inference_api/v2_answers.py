"""The JSON of the KServe V2 protocol; the OpenAPI document is made from these classes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from fedfleet_inference_api.answers import Latency, ModelRef


class V2Error(BaseModel):
    """What every status from 400 on carries below /v2."""

    error: str = Field(description="a stable code, a colon, what is wrong and what to do")


class V2Server(BaseModel):
    name: str
    version: str
    extensions: list[str]


class V2Live(BaseModel):
    live: bool


class V2Ready(BaseModel):
    ready: bool


class V2ModelReady(BaseModel):
    name: str
    ready: bool


class V2TensorMeta(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1 stands for any number")


class V2Model(BaseModel):
    name: str
    versions: list[str] = Field(description="those whose bytes are kept, oldest first")
    platform: str
    inputs: list[V2TensorMeta]
    outputs: list[V2TensorMeta]


class V2Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float] = Field(description="flat, in row-major order")


class V2Parameters(BaseModel):
    """What an answer says beside the protocol: where it came from, how long it took."""

    model: ModelRef
    latency_ms: Latency


class V2Inference(BaseModel):
    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="as it came")
    parameters: V2Parameters
    outputs: list[V2Tensor]


_PARAMETERS: dict[str, Any] = {"type": "object", "additionalProperties": True}
_SHAPE: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
# The body of an inference, which is parsed here and not by the framework.
INFER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "additionalProperties": False,
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": _PARAMETERS,
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype", "data"],
                                "additionalProperties": False,
                                "properties": {
                                    "name": {"type": "string", "enum": ["image"]},
                                    "shape": _SHAPE,
                                    "datatype": {"type": "string", "enum": ["UINT8", "FP32"]},
                                    "parameters": _PARAMETERS,
                                    "data": {"type": "array", "items": {}},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "additionalProperties": False,
                                "properties": {
                                    "name": {"type": "string"},
                                    "parameters": _PARAMETERS,
                                },
                            },
                        },
                    },
                }
            }
        },
    }
}
