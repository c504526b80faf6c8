"""How a camera is doing, as callers and metrics are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedfleet_inference_api.cameras.seen import CameraCode, CameraState


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of a camera; nothing in it is secret.

    Args:
        code: why it gives no frames; of a camera that streams ``NONE``.
        since_s: since the epoch, when it came into this state.
        frames: that were handed on, over the camera's life.
        width: of the newest frame as it is handed on, in pixels; ``height`` likewise, 0: none yet.
        fps: of the stream, as it was measured in the last seconds.
        codec: of the stream, for example ``h264``; empty: not known yet.
        restarts: how often its process was started again.
        dropped: packets that were thrown away to catch up, because decoding fell behind.
        retry_at_s: since the epoch, when it is tried again; 0 while that is not planned.
    """

    state: CameraState
    code: CameraCode = CameraCode.NONE
    since_s: float = 0.0
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    codec: str = ""
    restarts: int = 0
    dropped: int = 0
    retry_at_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON as Any, of the fields."""
        return {
            "state": self.state.value,
            "code": self.code.value,
            "since_s": round(self.since_s, 3),
            "frames": self.frames,
            "width": self.width,
            "height": self.height,
            "fps": round(self.fps, 2),
            "codec": self.codec,
            "restarts": self.restarts,
            "dropped": self.dropped,
            "retry_at_s": round(self.retry_at_s, 3),
        }
