"""What these routes do beside HTTP; test_outputs.py has the rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from email import message_from_bytes

import httpx
import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fedfleet.errors import FedFleetError, NoModel
from fedfleet_inference_api import camera_routes
from fedfleet_inference_api.answers import error_response
from fedfleet_inference_api.cameras import fleet
from fedfleet_inference_api.cameras.networks import parse_camera_networks, resolve
from fedfleet_inference_api.cameras.seen import Frame, View
from fedfleet_inference_api.cameras.station import Station
from fedfleet_inference_api.cameras.viewers import Scene, Viewers
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.metrics import Metrics

PATIENCE_S = 10.0


def no_model(*_: object) -> object:
    raise NoModel("none in this test")


@asynccontextmanager
async def calling() -> AsyncIterator[httpx.AsyncClient]:
    """The routes of cameras that are never started."""
    config = InferenceConfig(camera_networks=parse_camera_networks("10.0.0.0/8"))
    station = Station(config, look=no_model, submit=no_model, metrics=Metrics())
    app = FastAPI()
    app.include_router(camera_routes.camera_router(station))

    @app.exception_handler(FedFleetError)
    async def ours(request: Request, error: FedFleetError) -> JSONResponse:
        return error_response(error)

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
    station.stop()


async def test_slow_resolver_holds_up_no_other_request(monkeypatch):
    go = threading.Event()

    def slowly(*args: object) -> list[str]:
        go.wait(PATIENCE_S)
        return resolve(*args)

    monkeypatch.setattr(fleet, "resolve", slowly)
    # As many threads as all requests share, for example to check their keys.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with calling() as client:

        def add(number: int) -> asyncio.Task[httpx.Response]:
            body = {"name": f"door-{number}", "url": f"rtsp://10.0.0.{number}/"}
            return asyncio.create_task(client.post("/cameras", json=body))

        tasks = [add(number) for number in range(1, camera_routes.MOST_ADDING + 2)]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            key = await asyncio.wait_for(asyncio.to_thread(str, "checked"), PATIENCE_S / 4)
        finally:
            go.set()
        answers = await asyncio.gather(*tasks)
        listed = (await client.get("/cameras")).json()["cameras"]

    assert key == "checked"
    assert [task.result().status_code for task in done] == [503]
    assert sorted(answer.status_code for answer in answers) == [201] * 4 + [503]
    assert len(listed) == camera_routes.MOST_ADDING


async def test_label_without_utf_8_is_refused_before_it_is_in_every_list():
    async with calling() as client:
        body = b'{"name": "door", "url": "rtsp://10.0.0.5/", "classes": ["\\ud800"]}'
        added = await client.post(
            "/cameras", content=body, headers={"content-type": "application/json"}
        )
        listed = await client.get("/cameras")

    assert (added.status_code, added.json()["error"]["code"]) == (400, "CAMERA_INVALID")
    assert (listed.status_code, listed.json()) == (200, {"cameras": []})


async def test_viewer_of_a_camera_without_a_picture_hears_something(monkeypatch):
    monkeypatch.setattr(camera_routes, "REPEAT_S", 0.01)
    scenes = {"yard": Scene(view=None)}
    viewers = Viewers(lambda name: scenes[name], most=1, most_each=1)
    async with viewers.watch("yard") as watch:
        parts = camera_routes._parts(watch)
        heard = b"".join([await asyncio.wait_for(anext(parts), PATIENCE_S) for _ in range(3)])
        pixels = np.zeros((8, 8, 3), np.uint8)
        frame = Frame(camera="yard", sequence=1, at_s=1.0, media_s=None, pixels=pixels)
        scenes["yard"] = Scene(view=View(frame=frame))
        viewers.tell("yard")
        while b"image/jpeg" not in heard:
            heard += await asyncio.wait_for(anext(parts), PATIENCE_S)
        await parts.aclose()

    whole = b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n" + heard
    picture, *_ = message_from_bytes(whole.removesuffix(b"\r\n") + b"--\r\n").get_payload()
    assert heard.count(b"x-waiting: 1\r\n") >= 2
    assert picture.get_content_type() == "image/jpeg"
    assert picture.get_payload(decode=True).startswith(b"\xff\xd8\xff")
