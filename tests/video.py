"""Writes generated frames as a video file, as a camera would have encoded them."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt

Codec = Literal["libx264", "libx265", "mpeg4", "mjpeg"]


def write_video(
    path: Path,
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    fps: int = 15,
    codec: Codec = "libx264",
    seconds_between_keys: float = 1.0,
) -> None:
    """Encode frames (H, W, 3) of one size; the container is what the path's suffix says.

    Args:
        seconds_between_keys: how long whoever joins an RTSP stream waits for a picture.
    """
    # One thread, no frame held back, none that depends on a later one: what cameras send.
    options = {"threads": "1"}
    if codec in ("libx264", "libx265"):
        options |= {"preset": "ultrafast", "tune": "zerolatency", "crf": "20"}
    if codec == "libx265":
        options["x265-params"] = "log-level=error:pools=1:frame-threads=1"
    with av.open(str(path), "w") as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps), options=options)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                stream.codec_context.gop_size = max(1, round(fps * seconds_between_keys))
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError("a video needs at least one frame")
        container.mux(stream.encode())
