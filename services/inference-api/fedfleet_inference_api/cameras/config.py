"""What a camera is: its dataclass, read from a TOML file or from a caller's JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fedfleet.errors import CameraInvalid, RecipeInvalid
from fedfleet.tables import parse_table
from fedfleet_inference_api.cameras.secrets import Secret
from fedfleet_inference_api.cameras.urls import Place, parse_place, with_credentials

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_CAMERAS = 256
STALL_FRAMES = 20
MOST_POINTS = 64
MOST_NAMES = 200

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET_FIELDS = ("url", "user", "password")
# What only the operator's own file may say: they name files of this machine.
_FILE_FIELDS = ("ca_file", "loop")

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Zone:
    """A part of a camera's picture.

    Args:
        points: corners of a polygon (x, y) as shares of the frame's sides, in [0, 1].
        classes: labels that count in it; empty: the camera's.

    Raises:
        ValueError: out of range; the text names the field.
    """

    name: str
    points: tuple[Point, ...]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("name: must be 1 to 64 of A-Z a-z 0-9 . _ -")
        if not 3 <= len(self.points) <= MOST_POINTS:
            raise ValueError(f"points: must be 3 to {MOST_POINTS} corners, each [x, y]")
        if not all(0 <= x <= 1 and 0 <= y <= 1 for x, y in self.points):
            raise ValueError("points: must be shares of the frame's sides, from 0 to 1")
        _check_names("classes", self.classes)

    def to_json(self) -> dict[str, Any]:
        """JSON as Any, of the fields."""
        return {
            "name": self.name,
            "points": [list(point) for point in self.points],
            "classes": list(self.classes),
        }


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera as it was configured.

    Args:
        url: ``rtsp:``, ``rtsps:``, ``http:``, ``https:`` (MJPEG) or ``file:``, with credentials.
        fps: frames per second that are looked at, at most; the stream may have more.
        score: least score of what is told, in [0, 1].
        classes: labels that are told; empty: all.
        motion: whether a frame is looked at only when something moved in it.
        look_every_s: longest time without a look, for a camera that looks at motion only.
        stall_s: seconds without a new frame after which the camera is connected again.
        max_side: a frame's longer side is scaled down to this, in pixels.
        ca_file: certificates (PEM) that the camera's is checked against, not the system's.
        loop: whether a file begins again at its end.

    Raises:
        ValueError: a field is out of range; the text names it, and never the URL.
    """

    name: str
    url: Secret
    fps: float = 5.0
    score: float = 0.5
    classes: tuple[str, ...] = ()
    zones: tuple[Zone, ...] = ()
    motion: bool = True
    look_every_s: float = 10.0
    transport: Literal["tcp"] = "tcp"
    stall_s: float = 5.0
    max_side: int = 1280
    ca_file: Path | None = None
    loop: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("name: must be 1 to 64 of A-Z a-z 0-9 . _ -")
        try:
            _ = self.place
        except ValueError as error:
            raise ValueError(f"url: {error}") from None
        _check("fps", self.fps, 0.01, 120)
        _check("score", self.score, 0, 1)
        _check("look_every_s", self.look_every_s, 0.1, 86400)
        _check("stall_s", self.stall_s, 0.5, 3600)
        _check("max_side", self.max_side, 32, 4096)
        _check_names("classes", self.classes)
        if self.ca_file is not None and not self.place.is_encrypted:
            raise ValueError("ca_file: only rtsps: and https: look at it")
        if not self.loop and not self.place.is_file:
            raise ValueError("loop: only a file: looks at it")
        names = [zone.name for zone in self.zones]
        if len(set(names)) < len(names):
            raise ValueError("zones: two have one name")

    @cached_property
    def place(self) -> Place:
        """The URL, taken apart."""
        return parse_place(self.url.reveal())

    @property
    def silence_s(self) -> float:
        """Longest time without a new frame: ``stall_s``, or what 20 frames take if that is more."""
        return max(self.stall_s, STALL_FRAMES / self.fps)

    def to_json(self) -> dict[str, Any]:
        """What callers are told: all but credentials, path and files. JSON as Any."""
        return {
            "name": self.name,
            "address": self.place.shown,
            "fps": self.fps,
            "score": self.score,
            "classes": list(self.classes),
            "zones": [zone.to_json() for zone in self.zones],
            "motion": self.motion,
            "look_every_s": self.look_every_s,
            "transport": self.transport,
            "stall_s": self.stall_s,
            "max_side": self.max_side,
        }


def _check(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{field} = {value:g}: must be from {least:g} to {most:g}")


def _check_names(field: str, names: Sequence[str]) -> None:
    # What cannot be printed may have no UTF-8 either (half of a surrogate pair): no answer has it.
    if len(names) > MOST_NAMES or any(
        not (0 < len(name) <= 200 and name.isprintable()) for name in names
    ):
        raise ValueError(
            f"{field}: must be at most {MOST_NAMES} labels of 1 to 200 printable characters"
        )


@dataclass(frozen=True, kw_only=True)
class _ZoneTable:
    name: str
    points: tuple[tuple[float, ...], ...]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _CameraTable:
    """A camera as it is written; the readers turn it into a ``Camera``."""

    name: str
    url: str
    user: str = ""
    password: str = ""
    fps: float = Camera.fps
    score: float = Camera.score
    classes: tuple[str, ...] = Camera.classes
    zones: tuple[Mapping[str, Any], ...] = ()
    motion: bool = Camera.motion
    look_every_s: float = Camera.look_every_s
    transport: Literal["tcp"] = Camera.transport
    stall_s: float = Camera.stall_s
    max_side: int = Camera.max_side
    ca_file: str = ""
    loop: bool = Camera.loop


def read_cameras(path: Path) -> tuple[Camera, ...]:
    """The cameras of a TOML file, one ``[[camera]]`` table each; paths in it begin at its folder.

    Raises:
        CameraInvalid: it cannot be read, or a field of it cannot be used; the text names it, and
            holds no secret.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CameraInvalid(f"FEDFLEET_CAMERAS={path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CameraInvalid(f"FEDFLEET_CAMERAS={path}: must be UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        # Only its place: the text could be that of a line with a password.
        place = re.search(r"\(at (.*)\)", str(error))
        where = f" ({place[1]})" if place else ""
        raise CameraInvalid(f"FEDFLEET_CAMERAS={path}: must be TOML{where}") from None
    tables = document.pop("camera", [])
    if document or not isinstance(tables, list):
        raise CameraInvalid(f"FEDFLEET_CAMERAS={path}: must hold [[camera]] tables and no more")
    cameras = tuple(
        _camera(table, f"camera[{i}]", path.absolute().parent) for i, table in enumerate(tables)
    )
    check_together(cameras)
    return cameras


def camera_from_json(value: Any, where: str = "camera") -> Camera:
    """A camera as a caller describes it; a file, and what names one, is refused.

    Args:
        value: any JSON, as it came.
        where: what it is called in an error.

    Raises:
        CameraInvalid: a field cannot be used; the text names it, and holds no secret.
    """
    if isinstance(value, dict):
        for field in _FILE_FIELDS:
            if field in value:
                raise CameraInvalid(f"{where}.{field}: only the service's own file may say it")
    camera = _camera(value, where, None)
    if camera.place.is_file:
        raise CameraInvalid(f"{where}.url: file: is only for the service's own file")
    return camera


def check_together(cameras: Sequence[Camera]) -> None:
    """Refuse two cameras of one name, and too many.

    Raises:
        CameraInvalid: so it is.
    """
    names = [camera.name for camera in cameras]
    for name in names:
        if names.count(name) > 1:
            raise CameraInvalid(f'camera.name = "{name}": two cameras have it')
    if len(names) > MOST_CAMERAS:
        raise CameraInvalid(f"{len(names)} cameras: at most {MOST_CAMERAS}")


def _camera(value: Any, where: str, folder: Path | None) -> Camera:
    if not isinstance(value, dict):
        raise CameraInvalid(f"{where}: must be a table of fields")
    for field in _SECRET_FIELDS:  # before parse_table, which shows what is wrong
        if not isinstance(value.get(field, ""), str):
            raise CameraInvalid(f"{where}.{field}: must be a text")
    try:
        table = parse_table(_CameraTable, value, where)
        zones = tuple(_zone(zone, f"{where}.zones[{i}]") for i, zone in enumerate(table.zones))
        return _build(table, zones, folder)
    except RecipeInvalid as error:
        raise CameraInvalid(error.message) from None
    except ValueError as error:
        raise CameraInvalid(f"{where}.{error}") from None


def _build(table: _CameraTable, zones: tuple[Zone, ...], folder: Path | None) -> Camera:
    url = table.url
    if table.user or table.password:
        try:
            url = with_credentials(url, table.user, table.password)
        except ValueError as error:
            raise ValueError(f"url: {error}") from None
    place_in = folder or Path()
    if url.startswith("file:"):
        url = f"file:{place_in / url.removeprefix('file:').removeprefix('//')}"
    return Camera(
        name=table.name,
        url=Secret(url),
        fps=table.fps,
        score=table.score,
        classes=table.classes,
        zones=zones,
        motion=table.motion,
        look_every_s=table.look_every_s,
        transport=table.transport,
        stall_s=table.stall_s,
        max_side=table.max_side,
        ca_file=place_in / table.ca_file if table.ca_file else None,
        loop=table.loop,
    )


def _zone(value: Mapping[str, Any], where: str) -> Zone:
    table = parse_table(_ZoneTable, value, where)
    if any(len(point) != 2 for point in table.points):
        raise CameraInvalid(f"{where}.points: each must be [x, y]")
    points = tuple((point[0], point[1]) for point in table.points)
    try:
        return Zone(name=table.name, points=points, classes=table.classes)
    except ValueError as error:
        raise CameraInvalid(f"{where}.{error}") from None
