"""The JSON about cameras; the OpenAPI document is made from these classes."""

from __future__ import annotations

from pydantic import BaseModel, Field

from fedfleet_inference_api.cameras.seen import CameraCode, CameraState


class ZoneAnswer(BaseModel):
    name: str
    points: list[tuple[float, float]] = Field(description="corners, shares of the frame's sides")
    classes: list[str] = Field(description="labels that count in it; empty: the camera's")


class StatusAnswer(BaseModel):
    state: CameraState
    code: CameraCode = Field(description="why it gives no frames, empty where it does")
    since_s: float = Field(description="since the epoch")
    frames: int = Field(ge=0, description="handed on over the camera's life")
    width: int = Field(ge=0, description="of the newest frame, 0 before the first one")
    height: int = Field(ge=0)
    fps: float = Field(ge=0, description="measured in the last seconds")
    codec: str
    restarts: int = Field(ge=0)
    dropped: int = Field(ge=0)
    retry_at_s: float = Field(ge=0, description="since the epoch, when it is tried again; 0: not")


class SeenBy(BaseModel):
    """The version that looked last."""

    name: str
    version: int
    round: int
    digest: str


class CameraAnswer(BaseModel):
    """A camera without its credentials."""

    name: str
    address: str = Field(description="where it is, without path and credentials")
    fps: float
    score: float
    classes: list[str]
    zones: list[ZoneAnswer]
    motion: bool
    look_every_s: float
    transport: str
    stall_s: float
    max_side: int
    kept: bool = Field(description="whether it is there again after a restart of the service")
    configured: bool = Field(
        description="whether the service's own file names it: then it is there again after a "
        "restart even where a caller has removed it"
    )
    status: StatusAnswer
    model: SeenBy | None


class CamerasAnswer(BaseModel):
    cameras: list[CameraAnswer]
    fault: str = Field(description="why cameras that callers added are missing, empty: none is")
    may_add: bool = Field(description="whether the settings name networks for cameras of callers")


class CameraIn(BaseModel):
    """What POST /cameras takes; only described here, the cameras' own reader checks it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    url: str = Field(
        description="rtsp:, rtsps:, http: or https:, with credentials where it needs some; never "
        "shown again",
        json_schema_extra={"writeOnly": True},
    )
    user: str = Field(default="", json_schema_extra={"writeOnly": True})
    password: str = Field(default="", json_schema_extra={"writeOnly": True})
    fps: float = Field(default=5.0, ge=0.01, le=120)
    score: float = Field(default=0.5, ge=0, le=1)
    classes: list[str] = []
    zones: list[ZoneAnswer] = []
    motion: bool = True
    look_every_s: float = Field(default=10.0, ge=0.1, le=86400)
    transport: str = "tcp"
    stall_s: float = Field(default=5.0, ge=0.5, le=3600)
    max_side: int = Field(default=1280, ge=32, le=4096)
