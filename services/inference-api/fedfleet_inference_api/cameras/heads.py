"""Reads the heads of answers, of RTSP and HTTP alike."""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_HEAD = 16384
_STATUS = re.compile(r"(RTSP/1\.0|HTTP/1\.[01]) ([1-5]\d\d)(?: ([\x20-\x7e]*))?")
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)[ \t]*:[ \t]*([^\x00\r\n]*)")


class HeadInvalid(Exception):
    """These bytes are no head of an answer."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A status and its headers; names are lower case and may come more than once."""

    protocol: str
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def first(self, name: str) -> str:
        return next(iter(self.all(name)), "")

    @property
    def is_redirect(self) -> bool:
        return 300 <= self.status < 400

    @property
    def body_bytes(self) -> int:
        """Content-Length, 0 where it says nothing.

        Raises:
            HeadInvalid: two that differ, or no number.
        """
        found = set(self.all("content-length"))
        if len(found) > 1 or not all(re.fullmatch(r"\d{1,9}", text) for text in found):
            raise HeadInvalid("content-length")
        return int(found.pop()) if found else 0


def parse_head(data: bytes) -> Head:
    """Read a head, without the empty line that ends it. Lines that are no header are left out.

    Raises:
        HeadInvalid: it has no status line.
    """
    first, *lines = re.split(r"\r?\n", data.decode("latin-1"))
    status = _STATUS.fullmatch(first)
    if status is None:
        raise HeadInvalid("status line")
    headers: list[tuple[str, str]] = []
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is not None:
            headers.append((match[1].lower(), match[2].strip()))
    return Head(
        protocol=status[1],
        status=int(status[2]),
        reason=status[3] or "",
        headers=tuple(headers),
    )


def end_of_head(data: bytes | bytearray) -> tuple[int, int] | None:
    """Where a head ends and what follows it begins, None while its empty line has not come.

    Raises:
        HeadInvalid: it is too long.
    """
    match = re.search(rb"\r?\n\r?\n", data)
    if match is None or match.end() > MOST_HEAD:
        if len(data) > MOST_HEAD:
            raise HeadInvalid("too long")
        return None
    return match.start(), match.end()
