"""Lets through of a camera's RTSP answers what FFmpeg needs, and no redirect. No I/O.

FFmpeg follows an answer of 3xx to whatever host its Location names (``ff_rtsp_connect`` in
libavformat/rtsp.c), which would lead around every list of allowed addresses. It does so until it
has asked for PLAY, and never after. So until that has been answered, what the camera sends is
taken apart here and written anew: a status, the headers below, a body of the length that is said.
What FFmpeg reads is what was read here, whatever a camera tries with odd lines or lengths.
"""

from __future__ import annotations

import re

from fedfleet_inference_api.cameras.faults import SourceFailed, code_of_status
from fedfleet_inference_api.cameras.heads import (
    MOST_HEAD,
    Head,
    HeadInvalid,
    end_of_head,
    parse_head,
)
from fedfleet_inference_api.cameras.seen import CameraCode

MOST_BODY = 256 * 1024

# Location is not among them, nor Server, by which FFmpeg would turn to dialects of RTSP.
_KEPT = {
    "cseq": "CSeq",
    "session": "Session",
    "transport": "Transport",
    "content-base": "Content-Base",
    "content-type": "Content-Type",
    "www-authenticate": "WWW-Authenticate",
    "public": "Public",
    "rtp-info": "RTP-Info",
    "range": "Range",
}
_REQUEST = re.compile(rb"[A-Z_]{3,20} [^ \r\n]+ RTSP/1\.0\r?\n")
_VIDEO = re.compile(rb"^m=video ", re.MULTILINE)
_INTERLEAVED = ord("$")


class AnswerFilter:
    """Fed with what FFmpeg asks and what the camera answers, in the order in which it comes.

    Attributes:
        code: of the last refusal, ``NONE`` when the last answer was none.
        is_open: PLAY has been answered: from here on nothing is looked at.
    """

    def __init__(self) -> None:
        self.code = CameraCode.NONE
        self.is_open = False
        self._is_play_asked = False
        self._asked = bytearray()
        self._answered = bytearray()

    def note_request(self, data: bytes) -> None:
        """Take what FFmpeg sends; it goes to the camera as it is."""
        if self.is_open:
            return
        self._asked += data
        while (end := end_of_head(self._asked)) is not None:
            self._is_play_asked |= self._asked.startswith(b"PLAY ")
            del self._asked[: end[1]]

    def feed(self, data: bytes) -> bytes:
        """Take what the camera sends; gives what FFmpeg may read of it by now.

        Raises:
            SourceFailed: a redirect, or a stream without pictures.
            HeadInvalid: this is no RTSP.
        """
        if self.is_open:
            return data
        self._answered += data
        passed = bytearray()
        while not self.is_open and (piece := self._next()) is not None:
            passed += piece
        if self.is_open:
            passed += self._answered
            self._answered.clear()
        return bytes(passed)

    def _next(self) -> bytes | None:
        """One frame or answer, None while it has not come whole."""
        data = self._answered
        while data.startswith((b"\r", b"\n")):
            del data[:1]
        if not data:
            return None
        if data[0] == _INTERLEAVED:
            length = 4 + int.from_bytes(data[2:4], "big")
            return self._cut(length) if len(data) >= max(4, length) else None
        end = end_of_head(data)
        if end is None:
            return None
        if _REQUEST.match(data):  # the camera's own; FFmpeg need not know
            head = parse_head(b"RTSP/1.0 200\r\n" + data[: end[0]])
        else:
            head = parse_head(bytes(data[: end[0]]))
        length = end[1] + head.body_bytes
        if length > MOST_HEAD + MOST_BODY:
            raise HeadInvalid("too long a body")
        if len(data) < length:
            return None
        is_request = _REQUEST.match(data) is not None
        body = self._cut(length)[end[1] :]
        return b"" if is_request else self._answer(head, body)

    def _answer(self, head: Head, body: bytes) -> bytes:
        if not head.protocol.startswith("RTSP"):
            raise HeadInvalid("no RTSP")
        self.code = code_of_status(head.status)
        if head.is_redirect:
            raise SourceFailed(self.code)
        if head.first("content-type") == "application/sdp" and not _VIDEO.search(body):
            raise SourceFailed(CameraCode.NO_VIDEO)
        self.is_open = self._is_play_asked and 200 <= head.status < 300
        lines = [f"RTSP/1.0 {head.status} Answer"]
        lines += [f"{_KEPT[name]}: {value}" for name, value in head.headers if name in _KEPT]
        lines += [f"Content-Length: {len(body)}"] if body else []
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def _cut(self, length: int) -> bytes:
        piece = bytes(self._answered[:length])
        del self._answered[:length]
        return piece
