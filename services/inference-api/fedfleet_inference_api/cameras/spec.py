"""What a camera's process is told, and what it tells: one line of JSON each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfleet_inference_api.cameras.networks import CameraNetworks, networks_from_json
from fedfleet_inference_api.cameras.seen import CameraCode

# Beyond a camera's longest silence: the watchdog knows the frames, so it is to be the first to
# notice that none come.
LATER_S = 1.0
MOST_LINE = 512  # less than PIPE_BUF: written whole, or not at all


@dataclass(frozen=True, kw_only=True, repr=False)
class Spec:
    """The work of a camera's process. It holds the URL, so it travels on standard input alone.

    Args:
        stall_s: longest silence of the camera, in seconds, and ``LATER_S``.
        sequence: of the last frame that the service has had; the next has one more.
        ring_fd: file descriptor of the ring.
        parent: process id of the service.
    """

    url: str
    fps: float
    stall_s: float
    max_side: int
    memory_mb: int
    sequence: int
    ring_fd: int
    parent: int
    networks: CameraNetworks
    ca_file: Path | None
    loop: bool

    def to_line(self) -> bytes:
        fields = {**vars(self), "networks": self.networks.to_json()}
        fields["ca_file"] = str(self.ca_file) if self.ca_file else None
        return json.dumps(fields).encode() + b"\n"


def parse_spec(line: bytes) -> Spec:
    """What ``to_line`` wrote."""
    fields: dict[str, Any] = json.loads(line)
    fields["networks"] = networks_from_json(fields["networks"])
    fields["ca_file"] = Path(fields["ca_file"]) if fields["ca_file"] else None
    return Spec(**fields)


@dataclass(frozen=True, kw_only=True)
class Told:
    """A word of a camera's process: of a frame, or of its end.

    Args:
        sequence: of the newest frame, 0: the process ends, and ``code`` says why.
        fps: of the stream, measured.
        fault: kind and place of an error of our own, for the log; nothing of the stream.
    """

    sequence: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    codec: str = ""
    dropped: int = 0
    code: CameraCode = CameraCode.NONE
    fault: str = ""

    def to_line(self) -> bytes:
        return json.dumps({**vars(self), "code": self.code.value}, allow_nan=False).encode() + b"\n"


def parse_told(line: bytes) -> Told:
    """What ``Told.to_line`` wrote, or another whom a camera has taken over in its process.

    Raises:
        ValueError: it is not that.
    """
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return Told(
        sequence=_whole(found, "sequence"),
        width=_whole(found, "width"),
        height=_whole(found, "height"),
        fps=float(min(max(_number(found, "fps"), 0.0), 1e4)),
        codec=_text(found, "codec"),
        dropped=_whole(found, "dropped"),
        code=CameraCode(_text(found, "code")),
        fault=_text(found, "fault"),
    )


def _number(found: dict[str, Any], name: str) -> float:
    value = found.get(name, 0)
    if type(value) not in (int, float) or value != value:
        raise ValueError(name)
    return float(value)


def _whole(found: dict[str, Any], name: str) -> int:
    value = found.get(name, 0)
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(name)
    return value


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name, "")
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError(name)
    return value
