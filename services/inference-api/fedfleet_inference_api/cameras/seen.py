"""The values that the parts of a camera hand on: a frame, what a model saw on it, an event.

Legend: H, W = height, width. Boxes are (left, top, right, bottom) as shares of the frame's sides,
in [0, 1], so that they hold for every size in which a frame is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fedfleet.data.images import Pixels

Box = tuple[float, float, float, float]


class CameraState(str, Enum):
    """What a camera is doing."""

    CONNECTING = "connecting"
    STREAMING = "streaming"
    STALLED = "stalled"  # no frame came for too long; its process is being ended
    BACKOFF = "backoff"  # waits before it connects again; the code says why
    STOPPED = "stopped"


class CameraCode(str, Enum):
    """Why a camera gives no frames; stable, and all that a caller is told of it."""

    NONE = ""
    AUTH_FAILED = "auth_failed"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    REFUSED = "connection_refused"
    UNREACHABLE = "unreachable"
    NOT_ALLOWED = "not_allowed"  # its address is none that a camera may have here
    TLS_FAILED = "tls_failed"
    CODEC_UNSUPPORTED = "codec_unsupported"
    NO_VIDEO = "no_video"
    REDIRECT_REFUSED = "redirect_refused"
    ENDED = "ended"
    STALLED = "stalled"
    DIED = "process_died"
    FAILED = "failed"


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """The newest picture of a camera.

    Args:
        sequence: counted from 1 over the camera's life, also over reconnects; gaps were dropped.
        at_s: since the epoch, when the frame had been decoded.
        media_s: the stream's own clock, None where it has none.
        pixels: uint8, shape (H, W, 3), red green blue. Not to be mutated.
    """

    camera: str
    sequence: int
    at_s: float
    media_s: float | None
    pixels: Pixels


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One thing on a frame, as a model has it.

    Args:
        label: name of the class, ``index`` its place in the model's classes.
        score: in [0, 1].
        box: of a classification the moving region that was looked at.
        track: id that stays with the thing while it is followed, 0 where it is not.
        zones: names of the camera's zones that it stands in.
    """

    label: str
    index: int
    score: float
    box: Box
    track: int = 0
    zones: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """A frame with all that was seen on it; what viewers are shown.

    Args:
        seen: things above the camera's score, of its classes, in its zones.
        top5: of a classification: label and probability, most probable first.
        moving: regions in which something moved.
        model: name, number, round and digest of the version that looked; empty: none has.
        seen_at_s: since the epoch, when the model had answered.
    """

    frame: Frame
    seen: tuple[Seen, ...] = ()
    top5: tuple[tuple[str, float], ...] = ()
    moving: tuple[Box, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    seen_at_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CameraEvent:
    """Something to tell of a camera.

    Args:
        event_id: 0 until the hub has taken it; then it grows by one with each event.
        at_s: since the epoch.
        kind: ``track_started``, ``track_moved``, ``track_ended``, ``classified`` or ``state``.
        fields: a JSON object: label, score, box, track and zones of a track, top5 of a
            classification, state and code of a state.
        model: which version saw it; empty for a state.
    """

    camera: str
    at_s: float
    kind: str
    fields: Mapping[str, Any]
    model: Mapping[str, Any] = field(default_factory=dict)
    event_id: int = 0
