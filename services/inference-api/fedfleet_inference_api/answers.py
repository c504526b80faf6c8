"""The JSON that the service answers with; the OpenAPI document is made from these classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from fedfleet.errors import FedFleetError
from fedfleet_inference_api.servable import Servable

RETRY_AFTER_S = 1
# On every answer, whatever it is.
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
# Codes that only HTTP knows: the framework refused before any of our classes had a say.
HTTP_CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}


class ErrorDetail(BaseModel):
    code: str = Field(description="stable; what a program should look at", examples=["NO_MODEL"])
    message: str = Field(description="what is wrong and what to do, one line")


class ErrorAnswer(BaseModel):
    """What every status from 400 on carries."""

    error: ErrorDetail


class Prediction(BaseModel):
    label: str
    index: int = Field(ge=0, description="place of the class in the model's answer")
    probability: float = Field(ge=0, le=1)


class ModelRef(BaseModel):
    """Which version answered."""

    name: str
    version: int = Field(ge=1)
    round: int = Field(ge=0)
    digest: str = Field(description="SHA-256 of the version's safetensors file, in hex")
    alias: str = Field(description="the alias under which the version was served")


class Latency(BaseModel):
    """Milliseconds of each part of a prediction."""

    read: float = Field(ge=0, description="receiving the body")
    decode: float = Field(ge=0, description="waiting for a decoder, and decoding")
    queue: float = Field(ge=0, description="waiting for the model")
    forward: float = Field(ge=0, description="in the model")
    total: float = Field(ge=0)


class PredictAnswer(BaseModel):
    predictions: list[Prediction] = Field(description="most probable first")
    model: ModelRef
    latency_ms: Latency


class VersionSummary(BaseModel):
    version: int = Field(ge=1)
    round: int = Field(ge=0)
    run_id: str
    digest: str
    size_bytes: int = Field(ge=0)
    parent: int | None = Field(description="the version it was made from")
    created_at: str = Field(description="ISO 8601, UTC")


class VersionDetail(VersionSummary):
    metrics: dict[str, Any] = Field(description="metrics of the round that made it")


class ModelSummary(BaseModel):
    name: str
    aliases: dict[str, int] = Field(description="alias: version that it points at")
    served: int | None = Field(description="the version that /predict answers with, if any")
    versions: list[VersionSummary] = Field(description="newest first, cut at the limit")


class ModelsAnswer(BaseModel):
    models: list[ModelSummary]


class InputAnswer(BaseModel):
    """What images are brought to before the model sees them."""

    channels: int
    height: int
    width: int


class ModelDetail(BaseModel):
    name: str
    aliases: dict[str, int]
    served: int | None
    architecture: str = Field(description="of the newest version")
    classes: list[str] = Field(description="of the newest version")
    input: InputAnswer
    versions: list[VersionDetail] = Field(description="newest first, cut at the limit")


class ServedAnswer(BaseModel):
    """What is served at this moment."""

    model: ModelRef | None
    classes: list[str]
    input: InputAnswer | None
    detail: str = Field(description="one sentence for people; says why a newer version is refused")


class LiveAnswer(BaseModel):
    live: bool


class ReadyAnswer(BaseModel):
    ready: bool
    detail: str


def model_ref(servable: Servable) -> ModelRef:
    record = servable.record
    return ModelRef(
        name=record.model,
        version=record.number,
        round=record.round,
        digest=record.digest,
        alias=servable.alias,
    )


def error_response(error: FedFleetError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer for an error: its class decides the status and the code."""
    extra = {"retry-after": str(RETRY_AFTER_S)} if error.http == 503 else {}
    return error_json(error.http, error.code, error.message, {**extra, **(headers or {})})


def error_json(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    body = ErrorAnswer(error=ErrorDetail(code=code, message=message))
    return JSONResponse(body.model_dump(), status, headers=dict(headers or {}))
