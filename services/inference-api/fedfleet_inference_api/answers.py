"""The JSON that the service answers with; the OpenAPI document is made from these classes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from fedfleet.errors import FedFleetError
from fedfleet.types import InputSpec
from fedfleet_inference_api.servable import Servable

RETRY_AFTER_S = 1
OLDER = "how many older versions there are; the next ones: before=(this + 1), of one model"
V2 = "/v2"  # where the routes of the KServe V2 protocol are
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


class BoxAnswer(BaseModel):
    """Where something is, as shares of the sides of the image as a person sees it."""

    left: float = Field(ge=0, le=1)
    top: float = Field(ge=0, le=1)
    right: float = Field(ge=0, le=1)
    bottom: float = Field(ge=0, le=1)


class DetectionAnswer(BaseModel):
    label: str
    index: int = Field(ge=0, description="place of the class in the model's card")
    score: float = Field(ge=0, le=1)
    box: BoxAnswer


class ModelRef(BaseModel):
    """Which version answered, and how."""

    name: str
    version: int = Field(ge=1)
    round: int = Field(ge=0)
    digest: str = Field(description="SHA-256 of the version's safetensors file, in hex")
    alias: str = Field(
        description="the alias under which the version answered; empty: asked for by its number, "
        "or an older one while a newer one is refused"
    )
    kind: str = Field(description="classification or detection")
    level: str = Field(description="width at which it is served: a is all of it")
    backend: str = Field(
        description="what computes: torch, torch-bfloat16 or onnx; where one is the faster for few "
        "images and another one for many, both, and up to how many images the first",
        examples=["torch", "onnx up to 3, then torch"],
    )


class Latency(BaseModel):
    """Milliseconds of each part of a prediction; of several images the longest."""

    read: float = Field(ge=0, description="receiving the body, fetching a URL")
    decode: float = Field(default=0, ge=0, description="waiting for a decoder, and decoding")
    queue: float = Field(default=0, ge=0, description="waiting for the model")
    forward: float = Field(default=0, ge=0, description="in the model")
    total: float = Field(ge=0)


class ImageAnswer(BaseModel):
    """What a model says of one image; one of both, by the model's kind."""

    predictions: list[Prediction] | None = Field(
        default=None, description="of a classifier: most probable first"
    )
    detections: list[DetectionAnswer] | None = Field(
        default=None, description="of a detector: surest first"
    )


class PredictAnswer(ImageAnswer):
    model: ModelRef
    latency_ms: Latency


class BatchItem(ImageAnswer):
    """Of one image: an answer, or the error that this image alone has."""

    error: ErrorDetail | None = None


class BatchAnswer(BaseModel):
    results: list[BatchItem] = Field(description="in the order of the images")
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
    retired_at: str | None = Field(description="since when its bytes are kept no longer")
    accuracy: float | None = Field(
        description="on the coordinator's test data; of a detector the share of boxes found"
    )


class ClassAccuracy(BaseModel):
    """How a version does on one class."""

    label: str
    samples: int = Field(ge=0)
    accuracy: float | None = Field(description="share that was right; null of none")


class VersionDetail(VersionSummary):
    classes: list[ClassAccuracy] | None = Field(description="null where it was not evaluated")
    lineage: dict[str, Any] = Field(description="how it came about beside run, round and parent")
    metrics: dict[str, Any] = Field(description="metrics of the round that made it")


class ModelSummary(BaseModel):
    name: str
    aliases: dict[str, int] = Field(description="alias: version that it points at")
    served: int | None = Field(description="the version that /predict answers with, if any")
    versions: list[VersionSummary] = Field(description="newest first, cut at the limit")
    older: int = Field(ge=0, description=OLDER)


class ModelsAnswer(BaseModel):
    models: list[ModelSummary]


class InputAnswer(BaseModel):
    """What images are brought to before the model sees them."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, inputs: InputSpec) -> InputAnswer:
        return cls(channels=inputs.channels, height=inputs.height, width=inputs.width)


class ModelDetail(BaseModel):
    name: str
    aliases: dict[str, int]
    served: int | None
    architecture: str = Field(description="of the newest version")
    classes: list[str] = Field(description="of the newest version")
    input: InputAnswer
    versions: list[VersionDetail] = Field(description="newest first, cut at the limit")
    older: int = Field(ge=0, description=OLDER)


class RefusedVersion(BaseModel):
    """A version that is not served, or not any longer, and why."""

    model: str
    version: int = Field(ge=1)
    code: str
    message: str
    at: str = Field(description="ISO 8601, UTC")
    was_served: bool = Field(description="it answered callers before it was rolled back")


class CandidateAnswer(BaseModel):
    """What the canary alias points at."""

    model: ModelRef
    canary_share: float = Field(ge=0, le=1, description="of requests that it answers")
    shadow_share: float = Field(ge=0, le=1, description="of requests that it is shown beside")
    mirrored: int = Field(ge=0, description="images that were compared")
    agreement: float | None = Field(description="mean over them, 0 to 1; null of none")


class ServedAnswer(BaseModel):
    """What is served at this moment."""

    model: ModelRef | None
    previous: ModelRef | None = Field(description="what POST /served/rollback goes back to")
    candidate: CandidateAnswer | None
    is_held: bool = Field(description="rolled back by hand; the alias is not followed")
    refused: list[RefusedVersion] = Field(description="newest first, the last 16")
    classes: list[str]
    input: InputAnswer | None
    detail: str = Field(description="one sentence for people; says why a newer version is refused")


class LiveAnswer(BaseModel):
    live: bool


class ReadyAnswer(BaseModel):
    ready: bool
    detail: str


def model_ref(servable: Servable, alias: str | None = None) -> ModelRef:
    """Name a version in an answer.

    Args:
        alias: by which it was asked for; None: the one under which it is served.
    """
    record = servable.record
    return ModelRef(
        name=record.model,
        version=record.number,
        round=record.round,
        digest=record.digest,
        alias=servable.alias if alias is None else alias,
        kind=servable.card.kind,
        level=servable.level,
        backend=servable.backend_name,
    )


def error_response(
    error: FedFleetError, headers: Mapping[str, str] | None = None, *, path: str = ""
) -> JSONResponse:
    """The answer for an error: its class decides the status and the code.

    Args:
        path: what was asked; below /v2 errors have that protocol's form.
    """
    extra = {"retry-after": str(RETRY_AFTER_S)} if error.http == 503 else {}
    sent = {**extra, **(headers or {})}
    return error_json(error.http, error.code, error.message, sent, path=path)


def error_json(
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    path: str = "",
) -> JSONResponse:
    # What a message repeats of a request may be half of a surrogate pair, which has no UTF-8.
    message = message.encode(errors="backslashreplace").decode()
    if path == V2 or path.startswith(f"{V2}/"):
        content: dict[str, Any] = {"error": f"{code}: {message}"}
    else:
        content = ErrorAnswer(error=ErrorDetail(code=code, message=message)).model_dump()
    return JSONResponse(content, status, headers=dict(headers or {}))


def json_response(answer: BaseModel) -> Response:
    """An answer of ours as it is; what does not apply is left out."""
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def iso(at_s: float) -> str:
    """A moment since the epoch as ISO 8601."""
    moment = datetime.fromtimestamp(at_s, timezone.utc)
    return moment.isoformat(timespec="milliseconds")
