"""The JSON of the KServe V2 protocol; the OpenAPI document is made from these classes."""

from __future__ import annotations

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


class V2TensorParameters(BaseModel):
    binary_data_size: int = Field(description="bytes of this tensor behind the JSON")


class V2Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    parameters: V2TensorParameters | None = Field(
        default=None, description="of one that comes as binary data"
    )
    data: list[float] | None = Field(
        default=None, description="flat, in row-major order; of one that comes in the JSON"
    )


class V2Parameters(BaseModel):
    """What an answer says beside the protocol: where it came from, how long it took."""

    model: ModelRef
    latency_ms: Latency


class V2Answer(BaseModel):
    """What an answer says beside its outputs."""

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="as it came")
    parameters: V2Parameters


class V2Inference(V2Answer):
    outputs: list[V2Tensor]
