"""Opens a camera's stream with FFmpeg's demuxers, which open no connection of their own."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, Union

import av
import av.error

from fedfleet_inference_api.cameras.connection import connect
from fedfleet_inference_api.cameras.faults import SourceFailed, code_of_error
from fedfleet_inference_api.cameras.http_body import ask, authorize, check_answer
from fedfleet_inference_api.cameras.newest_part import NewestPart
from fedfleet_inference_api.cameras.relay import ACCEPT_S, Relay
from fedfleet_inference_api.cameras.seen import CameraCode
from fedfleet_inference_api.cameras.spec import Spec
from fedfleet_inference_api.cameras.urls import Place

CONNECT_S = 5.0
# Decoders are what a hostile camera would aim at: no more of them than cameras need.
CODECS = ("h264", "hevc", "mjpeg", "mpeg4", "vp8", "vp9", "av1", "libdav1d")
_CODECS = ",".join(CODECS)

_LIVE = {
    "fflags": "nobuffer+discardcorrupt",
    "flags": "low_delay",
    "probesize": "1000000",
    "analyzeduration": "1000000",
    "codec_whitelist": _CODECS,
}
Feed = Union[Relay, NewestPart, None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """An open stream. PyAV's types are Any: it is not typed in all its versions.

    Args:
        is_live: it comes at its own pace, and only its newest frame counts.
        has_clock: its time stamps mean something.
    """

    container: Any
    video: Any
    feed: Feed
    is_live: bool
    has_clock: bool

    @property
    def codec(self) -> str:
        return str(self.video.codec_context.name)

    @property
    def dropped(self) -> int:
        """Pictures that came, and were passed over for newer ones."""
        return self.feed.dropped if isinstance(self.feed, NewestPart) else 0

    def code_of(self, error: BaseException) -> CameraCode:
        """Why it ended: the camera's own answer says more than FFmpeg does."""
        refusal = self.feed.code if isinstance(self.feed, Relay) else CameraCode.NONE
        return refusal or code_of_error(error)

    def close(self) -> None:
        self.container.close()
        if isinstance(self.feed, NewestPart):
            self.feed.close()


def open_source(spec: Spec, place: Place) -> Source:
    """Connect to a camera, or open a file.

    Raises:
        SourceFailed: with the code of what is wrong.
    """
    if place.is_file:
        return _open_file(place)
    connection = connect(place, spec.networks, timeout_s=CONNECT_S, ca_file=spec.ca_file)
    if place.scheme in ("rtsp", "rtsps"):
        return _open_rtsp(spec, place, connection)
    return _open_http(spec, place, connection)


def _open_rtsp(spec: Spec, place: Place, connection: socket.socket) -> Source:
    relay = Relay(connection, spec.stall_s)
    url = f"rtsp://{place.userinfo}127.0.0.1:{relay.port}{place.path.reveal()}"
    options = {
        **_LIVE,
        "rtsp_transport": "tcp",
        "user_agent": "FedFleet",
        "allowed_media_types": "video",
        "max_delay": "500000",
        "timeout": str(int((spec.stall_s + ACCEPT_S) * 1e6)),  # the relay's comes first
        "protocol_whitelist": "tcp",
    }
    return _open(url, "rtsp", options, relay, is_live=True, has_clock=True)


def _open_http(spec: Spec, place: Place, connection: socket.socket) -> Source:
    connection.settimeout(spec.stall_s)
    try:
        head, body = ask(connection, place, "")
        authorization = authorize(head, place) if head.status == 401 else ""
        if authorization:
            connection.close()
            connection = connect(place, spec.networks, timeout_s=CONNECT_S, ca_file=spec.ca_file)
            connection.settimeout(spec.stall_s)
            head, body = ask(connection, place, authorization)
        check_answer(head)
    except (OSError, SourceFailed) as error:
        connection.close()
        raise SourceFailed(code_of_error(error)) from None
    options = {**_LIVE, "protocol_whitelist": "none"}
    feed = NewestPart(body)
    return _open(feed, "mpjpeg", options, feed, is_live=True, has_clock=False)


def _open_file(place: Place) -> Source:
    options = {"codec_whitelist": _CODECS, "protocol_whitelist": "file"}
    path = f"file:{place.path.reveal()}"
    return _open(path, None, options, None, is_live=False, has_clock=True)


def _open(
    what: str | NewestPart,
    format: str | None,
    options: dict[str, str],
    feed: Feed,
    *,
    is_live: bool,
    has_clock: bool,
) -> Source:
    try:
        container = av.open(what, format=format, options=options)
    except (av.error.FFmpegError, OSError, SourceFailed) as error:
        if isinstance(feed, NewestPart):
            feed.close()
        refusal = feed.code if isinstance(feed, Relay) else CameraCode.NONE
        raise SourceFailed(refusal or code_of_error(error)) from None
    if not container.streams.video:
        container.close()
        raise SourceFailed(CameraCode.NO_VIDEO)
    video = container.streams.video[0]
    if video.codec_context is None or video.codec_context.name not in CODECS:
        container.close()
        raise SourceFailed(CameraCode.CODEC_UNSUPPORTED)
    # Threads by frame would hold back as many frames as there are threads.
    video.thread_type = "SLICE"
    video.codec_context.thread_count = 2
    return Source(container=container, video=video, feed=feed, is_live=is_live, has_clock=has_clock)
