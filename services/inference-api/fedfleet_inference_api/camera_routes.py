"""GET, POST and DELETE /cameras, their pictures and live views."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from fedfleet.errors import InvalidInput, NotFound, Unavailable
from fedfleet_inference_api.answers import ErrorAnswer
from fedfleet_inference_api.aside import Aside
from fedfleet_inference_api.camera_answers import CameraAnswer, CameraIn, CamerasAnswer
from fedfleet_inference_api.cameras.config import camera_from_json
from fedfleet_inference_api.cameras.station import Station
from fedfleet_inference_api.cameras.streams import LiveResponse
from fedfleet_inference_api.cameras.viewers import Picture, Watch

Name = Annotated[str, Path(max_length=64)]
Width = Annotated[int | None, Query(ge=16, le=4096, description="of the picture in pixels")]
LiveWidth = Annotated[
    int | None,
    Query(ge=16, le=4096, description="up to 640: pictures that wide, whose texts fit; else 1280"),
]

MAX_BYTES = 64 * 1024
# At once: each waits for the resolver, and some answer after half a minute only.
MOST_ADDING = 4
BOUNDARY = b"--frame\r\n"
MJPEG = "multipart/x-mixed-replace; boundary=frame"
# A picture again though nothing changed: so a caller that is gone without a word is noticed.
REPEAT_S = 10.0
# A stream without a picture looks like one that hangs: after so long its caller is told why.
FIRST_S = 3.0
_PICTURE_HEADERS = {"cache-control": "no-store", "cross-origin-resource-policy": "same-origin"}

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "INVALID_INPUT, CAMERA_INVALID"},
    404: {"model": ErrorAnswer, "description": "NOT_FOUND"},
    503: {"model": ErrorAnswer, "description": "UNAVAILABLE"},
    "default": {"model": ErrorAnswer, "description": "any other error"},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": CameraIn.model_json_schema()}},
    }
}
_JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}
_LIVE: dict[int | str, dict[str, Any]] = {200: {"content": {"multipart/x-mixed-replace": {}}}}


def camera_router(station: Station) -> APIRouter:
    router = APIRouter(tags=["cameras"], responses=ERRORS)
    adding = Aside("adding-camera", MOST_ADDING)

    @router.get("/cameras")
    async def cameras() -> CamerasAnswer:
        """List the cameras and how they are."""
        answers = []
        for name in station.names():
            with suppress(NotFound):  # removed since the names were read
                answers.append(_answer(station, name))
        return CamerasAnswer(cameras=answers, fault=station.fault, may_add=station.may_add)

    @router.post("/cameras", status_code=201, openapi_extra=_BODY)
    async def add(request: Request) -> CameraAnswer:
        """Add a camera within the allowed networks; `kept` says whether it outlives the service."""
        camera = camera_from_json(await _read_json(request))
        await adding.run(lambda: station.add(camera))
        return _answer(station, camera.name)

    @router.get("/cameras/{name}")
    async def camera(name: Name) -> CameraAnswer:
        """Show one camera."""
        return _answer(station, name)

    @router.delete("/cameras/{name}", status_code=204)
    async def remove(name: Name) -> Response:
        """Remove a camera; its viewers' streams end."""
        await asyncio.to_thread(station.remove, name)
        return Response(status_code=204)

    @router.get("/cameras/{name}/snapshot.jpg", response_class=Response, responses=_JPEG)
    async def snapshot(
        name: Name,
        raw: Annotated[bool, Query(description="as the camera gave it")] = False,
        width: Width = None,
    ) -> Response:
        """The picture of this moment, with what is seen on it."""
        picture = await station.viewers.still(name, width=width, is_raw=raw)
        frame = picture.view.frame
        headers = {"x-frame": str(frame.sequence), "x-frame-at": f"{frame.at_s:.3f}"}
        return Response(picture.jpeg, 200, {**_PICTURE_HEADERS, **headers}, "image/jpeg")

    @router.get("/cameras/{name}/stream.mjpg", response_class=Response, responses=_LIVE)
    async def stream(name: Name, width: LiveWidth = None) -> Response:
        """The live view as Motion JPEG, at most 10 pictures a second."""
        return LiveResponse(lambda: _live(station, name, width), MJPEG)

    return router


def _answer(station: Station, name: str) -> CameraAnswer:
    return CameraAnswer.model_validate(station.describe(name))


async def _read_json(request: Request) -> object:
    """The body. Only with its own media type: a page of another host cannot send that unasked."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise InvalidInput("the body must be JSON, with content-type: application/json")
    body = await request.body()
    if len(body) > MAX_BYTES:
        raise InvalidInput(f"a camera's description has at most {MAX_BYTES:,} bytes")
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not JSON") from None  # its text may hold a password
    return value


def _no_picture(station: Station, name: str) -> Unavailable:
    """Why a camera shows nothing; raises NotFound where there is no such camera any more."""
    status = _answer(station, name).status
    why = f" ({status.code.value})" if status.code.value else ""
    return Unavailable(f"camera {name!r} has given no picture yet: it is {status.state.value}{why}")


@asynccontextmanager
async def _live(
    station: Station, name: str, width: int | None
) -> AsyncIterator[AsyncIterator[bytes]]:
    async with station.viewers.watch(name, width) as watch:
        first = await watch.next(FIRST_S)
        if first is None:
            raise _no_picture(station, name)
        yield _parts(watch, first)


async def _parts(watch: Watch, picture: Picture) -> AsyncIterator[bytes]:
    """The boundary behind each picture, too: browsers show it when they have read that."""
    yield BOUNDARY
    while not watch.is_over:
        head = f"content-type: image/jpeg\r\ncontent-length: {len(picture.jpeg)}\r\n\r\n"
        yield head.encode() + picture.jpeg + b"\r\n" + BOUNDARY
        picture = await watch.next(REPEAT_S) or picture
