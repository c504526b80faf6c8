"""Reads a camera's MJPEG as fast as it comes, and hands on the newest picture alone.

A camera sends its newest picture whenever there is room for it. Were its connection read at the
pace of the decoder, what waits in the buffers of both systems would be as old as they are large,
and nothing of it would show: these pictures have no clock.
"""

from __future__ import annotations

import re
import threading

from fedfleet_inference_api.cameras.faults import SourceFailed
from fedfleet_inference_api.cameras.heads import MOST_HEAD
from fedfleet_inference_api.cameras.http_body import HttpBody
from fedfleet_inference_api.cameras.seen import CameraCode

CHUNK = 65536
# A picture of 8K as a JPEG of the best quality has about so many bytes.
MOST_PART = 32 * 1024 * 1024
_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")
_KIND = re.compile(rb"^content-type[ \t]*:[ \t]*([^;\r\n ]*)", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,9})[ \t]*\r?$", re.I | re.MULTILINE)
_KINDS = (b"image/jpeg", b"image/jpg")


class Parts:
    """Takes a multipart body apart. No I/O.

    The delimiter is what the camera sends, not what it announced: many leave out, or add, dashes.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._delimiter = b""
        self._searched = 0  # bytes in which the next delimiter is not

    def feed(self, data: bytes) -> list[bytes]:
        """Take what came; gives the parts that are whole by now.

        Raises:
            SourceFailed: a part is no JPEG, or is too long; this is no multipart body.
        """
        self._data += data
        parts = []
        while (part := self._next()) is not None:
            if part:
                parts.append(part)
        return parts

    def _next(self) -> bytes | None:
        head = self._head()
        if head is None:
            return None
        kind = _KIND.search(self._data, 0, head)
        if kind is not None and kind[1].lower() not in _KINDS:
            raise SourceFailed(CameraCode.CODEC_UNSUPPORTED)
        length = _LENGTH.search(self._data, 0, head)
        end = head + int(length[1]) if length is not None else self._end(head)
        if (len(self._data) if end is None else end) > head + MOST_PART:
            raise SourceFailed(CameraCode.FAILED)
        if end is None or len(self._data) < end:
            return None
        part = bytes(self._data[head:end])
        self._cut(end)
        return part

    def _head(self) -> int | None:
        """Where the head ends that the data begin with, once they begin with a delimiter."""
        if not self._delimiter:
            first = re.search(rb"^(--[^\r\n]+)\r?\n", self._data, re.MULTILINE)
            self._delimiter = first[1].rstrip() if first is not None else b""
        start = self._data.find(self._delimiter) if self._delimiter else -1
        self._cut(max(0, start))  # what lies between two parts
        found = _EMPTY_LINE.search(self._data, 0, MOST_HEAD) if start >= 0 else None
        if found is None and len(self._data) > MOST_HEAD:
            raise SourceFailed(CameraCode.FAILED)
        return found.end() if found is not None else None

    def _end(self, head: int) -> int | None:
        """Where a part ends that does not say how long it is."""
        delimiter = b"\n" + self._delimiter
        end = self._data.find(delimiter, max(head, self._searched))
        if end < 0:
            self._searched = max(head, len(self._data) - len(delimiter))
            return None
        return end - 1 if self._data[end - 1 : end] == b"\r" else end

    def _cut(self, count: int) -> None:
        if count:
            del self._data[:count]
            self._searched = 0


class NewestPart:
    """The body as FFmpeg reads it: one part after the other, each the newest of that moment.

    Attributes:
        dropped: parts that came and were not handed on, for newer ones.
    """

    def __init__(self, body: HttpBody) -> None:
        self.dropped = 0
        self._body = body
        self._changed = threading.Condition()
        self._newest: bytes | None = None
        self._end: OSError | SourceFailed | None = None
        self._has_ended = False
        self._rest = memoryview(b"")
        self._thread = threading.Thread(target=self._run, name="camera-body", daemon=True)
        self._thread.start()

    def read(self, count: int) -> bytes:
        """At most so many bytes, of one part; waits for some. Empty: the end.

        Raises:
            OSError: the connection broke off, or was silent for too long.
            SourceFailed: what came is no stream of JPEG pictures.
        """
        if not self._rest:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._has_ended)
                part, self._newest = self._newest, None
                if part is None and self._end is not None:
                    raise self._end
            self._rest = memoryview(_as_part(part) if part is not None else b"")
        piece, self._rest = self._rest[:count], self._rest[count:]
        return bytes(piece)

    def close(self) -> None:
        self._body.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._read_all()
        except (OSError, SourceFailed) as error:
            self._end = error
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _read_all(self) -> None:
        parts = Parts()
        while data := self._body.read(CHUNK):
            found = parts.feed(data)
            if not found:
                continue
            with self._changed:
                self.dropped += len(found) - (self._newest is None)
                self._newest = found[-1]
                self._changed.notify_all()


def _as_part(picture: bytes) -> bytes:
    head = f"--newest\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
    return head.encode() + picture + b"\r\n"
