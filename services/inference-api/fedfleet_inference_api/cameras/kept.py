"""The file in which the cameras are kept that callers add, so that they outlive the service."""

from __future__ import annotations

import glob
import json
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedfleet.errors import CameraInvalid, StoreFull, StoreUnavailable, Unavailable
from fedfleet.identity.files import write_private
from fedfleet_inference_api.cameras.config import (
    MOST_CAMERAS,
    Camera,
    camera_from_json,
    check_together,
)

logger = logging.getLogger(__name__)

SETTING = "FEDFLEET_CAMERAS_KEPT"
# As many cameras as there may be, each described as long as a caller may, are less.
MOST_BYTES = 32 << 20


class KeptCameras:
    """Cameras by name, as the file has them; its caller lets one change it at a time.

    The file holds credentials, so its owner alone may read it. It is replaced as a whole, durable
    before a change is answered. One that cannot be used, or that somebody else has written since,
    is never overwritten.

    Attributes:
        fault: why the file cannot be used, without its path and all that is secret in it; empty
            where it can be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cameras: dict[str, Camera] = {}
        self._known = {b""}  # what may stand in the file by us; empty: there is none
        self.fault = ""
        try:
            _forget_partial(path)
            data = _read(path)
            self._cameras = _parse(data) if data else {}
            self._known = {data}
        except CameraInvalid as error:
            self.fault = f"{SETTING}: {error.message}"
        except OSError as error:
            self.fault = f"{SETTING}: {error.strerror}"
        if self.fault:
            logger.error("kept_cameras_unusable", extra={"path": str(path), "reason": self.fault})

    @property
    def cameras(self) -> tuple[Camera, ...]:
        return tuple(self._cameras.values())

    def put(self, camera: Camera) -> None:
        """Keep a camera, in place of one of its name.

        Raises:
            CameraInvalid: the file has as many as it may have.
            Unavailable: the file cannot be used or written.
        """
        if self.fault:
            raise Unavailable(f"no camera can be added now: {self.fault}")
        cameras = {**self._cameras, camera.name: camera}
        if len(cameras) > MOST_CAMERAS:
            raise CameraInvalid(f"{MOST_CAMERAS} cameras are kept already, the most there may be")
        self._write(cameras)

    def drop(self, name: str) -> None:
        """Keep a camera no longer; one that is not kept is none to drop.

        Raises:
            Unavailable: the file cannot be written.
        """
        if name in self._cameras:
            self._write({one: camera for one, camera in self._cameras.items() if one != name})

    def _write(self, cameras: Mapping[str, Camera]) -> None:
        data = _document(cameras.values())
        if len(data) > MOST_BYTES:
            raise Unavailable(f"the cameras that are kept take more than {MOST_BYTES:,} bytes")
        try:
            self._check_ours()
            # Known before it is there: a write that fails may have come as far as the file.
            self._known.add(data)
            write_private(self._path, data)
        except (CameraInvalid, StoreFull, StoreUnavailable) as error:
            logger.error(
                "camera_not_kept", extra={"path": str(self._path), "reason": error.message}
            )
            raise Unavailable(
                f"cameras cannot be kept now ({SETTING}): the service's log says why"
            ) from None
        self._known = {data}
        self._cameras = dict(cameras)

    def _check_ours(self) -> None:
        try:
            data = _read(self._path)
        except OSError as error:
            raise StoreUnavailable(f"{error.strerror}") from None
        if data and data not in self._known:
            raise CameraInvalid(
                "somebody else has written to the file: restart the service to read it"
            )


def _read(path: Path) -> bytes:
    """The bytes of the file, none where there is no file.

    Raises:
        CameraInvalid: it is no file for secrets, or has no place.
        OSError: it cannot be read.
    """
    try:
        # A pipe in its place must not hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise CameraInvalid("its folder is not there") from None
        return b""
    try:
        _check_secret(os.fstat(descriptor).st_mode)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MOST_BYTES:
        raise CameraInvalid(f"has more than {MOST_BYTES:,} bytes")
    if not data:
        raise CameraInvalid("is empty; remove it if no camera was kept in it")
    return data


def _check_secret(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise CameraInvalid("is not a file")
    if mode & 0o077:
        raise CameraInvalid(
            f"others may read or change it (mode {mode & 0o777:o}), and it holds passwords; chmod "
            "it to 600"
        )


def _parse(data: bytes) -> dict[str, Camera]:
    """What ``_document`` wrote, or somebody else.

    Raises:
        CameraInvalid: it is not that; the text holds nothing of it.
    """
    try:
        document: Any = json.loads(data)  # any JSON
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise CameraInvalid(f"must be JSON{where}") from None
    found = document.get("cameras") if isinstance(document, dict) else None
    if not isinstance(found, list) or len(document) > 1:
        raise CameraInvalid('must be {"cameras": [...]}')
    try:
        cameras = [camera_from_json(value, f"cameras[{i}]") for i, value in enumerate(found)]
        check_together(cameras)
    except CameraInvalid as error:
        # Its text shows a name or a number that is wrong; whoever asks for readiness has no key.
        logger.error("kept_camera_invalid", extra={"reason": error.message})
        raise CameraInvalid("a camera in it cannot be used: the service's log says why") from None
    return {camera.name: camera for camera in cameras}


def _document(cameras: Iterable[Camera]) -> bytes:
    """JSON with a line for each camera; what is printable has UTF-8."""
    lines = (json.dumps(_fields(camera), ensure_ascii=False) for camera in cameras)
    return ('{"cameras": [\n' + ",\n".join(lines) + "\n]}\n").encode()


def _fields(camera: Camera) -> dict[str, Any]:
    """What a caller would send to add it again. JSON as Any."""
    fields = camera.to_json()
    del fields["address"]
    return {**fields, "url": camera.url.reveal()}


def _forget_partial(path: Path) -> None:
    """Remove what a process that was killed has left half written: it holds passwords."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):  # nothing is to be done about it here
            partial.unlink()
