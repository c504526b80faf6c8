"""Decodes every packet of a stream, and hands on the frames that are wanted, newest first of all.

Legend: H, W = height, width in pixels.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from fedfleet.data.images import Pixels
from fedfleet_inference_api.cameras.faults import SourceFailed
from fedfleet_inference_api.cameras.pace import JUMP_S, Lag, Meter, Opening, Playback, Rate
from fedfleet_inference_api.cameras.ring import Picture, Ring
from fedfleet_inference_api.cameras.seen import CameraCode
from fedfleet_inference_api.cameras.source import Source
from fedfleet_inference_api.cameras.spec import LATER_S, Spec, Told

# Of packets, one after the other, that no frame comes from.
MOST_BAD_PACKETS = 300
_MATRIX = struct.Struct("=9i")


class Decoding:
    """The frames of one camera, over all that its process opens.

    Args:
        tell: of each frame that is in the ring.
    """

    def __init__(self, spec: Spec, ring: Ring, tell: Callable[[Told], None]) -> None:
        self._spec = spec
        self._ring = ring
        self._tell = tell
        self._sequence = spec.sequence
        self._rate = Rate(spec.fps)
        self._meter = Meter()
        self._lag = Lag()
        # One for all frames: each holds a context of FFmpeg's scaler.
        self._reformatter = VideoReformatter()

    def run(self, source: Source) -> int:
        """Decode until the end of the stream; gives the number of its frames.

        Raises:
            SourceFailed: it broke off, with the code of why.
        """
        playback = Playback(1 / self._spec.fps, most_gap_s(self._spec.stall_s))
        count = 0
        for frame in self._frames(source):
            media_s = frame.time if source.has_clock else None
            if not source.is_live:
                time.sleep(playback.wait_s(time.monotonic(), media_s))
            count += 1
            self._meter.count(time.monotonic())
            if self._rate.wants(time.monotonic()):
                self._publish(frame, media_s, source)
        if count and self._spec.loop and not source.is_live:
            time.sleep(playback.rest_s(time.monotonic()))
        return count

    def _frames(self, source: Source) -> Iterator[Any]:
        bad = 0
        opening = Opening()
        try:
            for packet in source.container.demux(source.video):
                if source.is_live and (
                    opening.skips_packet(time.monotonic(), is_key=packet.is_keyframe)
                    or self._is_dropped(packet, source.has_clock)
                ):
                    continue
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    bad += 1
                    if bad > MOST_BAD_PACKETS:
                        raise
                    continue
                bad = 0 if frames else bad
                for frame in frames:
                    if not opening.skips_frame(time.monotonic(), is_whole=not frame.is_corrupt):
                        yield frame
        except (av.error.FFmpegError, OSError) as error:
            raise SourceFailed(source.code_of(error)) from None

    def _is_dropped(self, packet: Any, has_clock: bool) -> bool:
        if not has_clock or packet.pts is None or packet.time_base is None:
            return False
        media_s = float(packet.pts * packet.time_base)
        return self._lag.drops(time.monotonic(), media_s, is_key=packet.is_keyframe)

    def _publish(self, frame: Any, media_s: float | None, source: Source) -> None:
        width, height = fitted(frame.width, frame.height, self._spec.max_side)
        at_s = time.time()
        # Any: its type says nothing of the format that was asked for.
        rgb: Any = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="FAST_BILINEAR"
        )
        pixels: Pixels = upright(rgb.to_ndarray(), _display_matrix(frame))
        height, width, _ = pixels.shape
        picture = Picture(sequence=self._sequence + 1, at_s=at_s, media_s=media_s, pixels=pixels)
        if not self._ring.write(picture):
            return
        self._sequence += 1
        self._tell(
            Told(
                sequence=self._sequence,
                width=width,
                height=height,
                fps=round(self._meter.fps, 2),
                codec=source.codec,
                dropped=self._lag.dropped + source.dropped,
            )
        )


def fitted(width: int, height: int, max_side: int) -> tuple[int, int]:
    """A frame's size so that no side is above ``max_side``, its shape kept; never larger.

    Raises:
        SourceFailed: it has no size.
    """
    if width < 1 or height < 1:
        raise SourceFailed(CameraCode.CODEC_UNSUPPORTED)
    share = min(1.0, max_side / max(width, height))
    return max(1, round(width * share)), max(1, round(height * share))


def _display_matrix(frame: Any) -> bytes:
    """Of a frame as FFmpeg has it, empty where it has none."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return bytes(data)
    return b""


def upright(pixels: Pixels, matrix: bytes) -> Pixels:
    """Turn and mirror a picture as it is to be shown, by quarters of a turn; else it stays.

    Args:
        pixels: shape (H, W, 3).
        matrix: nine numbers of 4 bytes (libavutil/display.h): the point (x, y) is shown at
            (a x + c y, b x + d y), where a, b, c, d are those at places 0, 1, 3, 4, in 65536ths.
    """
    if len(matrix) != _MATRIX.size:
        return pixels
    a, b, _, c, d, *_ = (round(number / 65536) for number in _MATRIX.unpack(matrix))
    if {abs(a), abs(d)} == {1} and not b and not c:
        across, down = a, d
    elif {abs(b), abs(c)} == {1} and not a and not d:
        pixels = pixels.transpose(1, 0, 2)
        across, down = c, b
    else:
        return pixels
    return np.ascontiguousarray(pixels[::down, ::across])


def most_gap_s(stall_s: float) -> float:
    """The longest pause that a file may make: before the camera would be taken for stalled."""
    return min(JUMP_S, 0.8 * (stall_s - LATER_S))
