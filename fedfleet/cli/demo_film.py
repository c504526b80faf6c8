"""Films the moving shapes on which a detector of ``shapes`` is tried; alone needs PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from fedfleet.data.shapes_scene import lane_movers, moving_scene

HEIGHT, WIDTH, FPS = 360, 640, 15
SHAPES = 3
# Grey levels of what a camera's sensor adds: without it nothing ever moves but the shapes.
NOISE = 2.0


def write_film(path: Path, *, seconds: int) -> None:
    """Write H.264 as a camera would send it; the same film each time."""
    movers = lane_movers(SHAPES, seed=1, height=HEIGHT, width=WIDTH)
    frames = moving_scene(
        movers, frames=seconds * FPS, fps=FPS, height=HEIGHT, width=WIDTH, noise=NOISE
    )
    options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23", "threads": "1"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.gop_size = FPS
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
