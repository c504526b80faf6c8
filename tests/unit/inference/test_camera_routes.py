"""What these routes do beside HTTP; test_outputs.py has the rest."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from email import message_from_bytes
from typing import Any

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
async def calling(**settings: object) -> AsyncIterator[tuple[httpx.AsyncClient, Station]]:
    """The routes of cameras that are never started."""
    values = {"camera_networks": parse_camera_networks("10.0.0.0/8"), **settings}
    config = InferenceConfig(**values)
    station = Station(config, look=no_model, submit=no_model, metrics=Metrics())
    app = FastAPI()
    app.include_router(camera_routes.camera_router(station))

    @app.exception_handler(FedFleetError)
    async def ours(request: Request, error: FedFleetError) -> JSONResponse:
        return error_response(error)

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client, station
    station.stop()


async def test_slow_resolver_holds_up_no_other_request(monkeypatch):
    go = threading.Event()

    def slowly(*args: object) -> list[str]:
        go.wait(PATIENCE_S)
        return resolve(*args)

    monkeypatch.setattr(fleet, "resolve", slowly)
    # As many threads as all requests share, for example to check their keys.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with calling() as (client, _):

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
    async with calling() as (client, _):
        body = b'{"name": "door", "url": "rtsp://10.0.0.5/", "classes": ["\\ud800"]}'
        added = await client.post(
            "/cameras", content=body, headers={"content-type": "application/json"}
        )
        listed = await client.get("/cameras")

    assert (added.status_code, added.json()["error"]["code"]) == (400, "CAMERA_INVALID")
    assert (listed.status_code, listed.json()) == (
        200,
        {"cameras": [], "fault": "", "may_add": True},
    )


async def test_stream_of_a_camera_without_a_picture_says_in_a_moment_how_it_is(monkeypatch):
    monkeypatch.setattr(camera_routes, "FIRST_S", 0.05)
    async with calling() as (client, station):
        await client.post("/cameras", json={"name": "door", "url": "rtsp://10.0.0.5/"})
        answer = await asyncio.wait_for(client.get("/cameras/door/stream.mjpg"), PATIENCE_S)
        viewers = station.viewers.viewers

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert answer.json()["error"]["message"] == (
        "camera 'door' has given no picture yet: it is stopped"
    )
    assert viewers == 0  # its place is free again


async def test_stream_of_a_camera_that_is_removed_before_its_first_picture_is_not_found(
    monkeypatch,
):
    monkeypatch.setattr(camera_routes, "FIRST_S", 3 * PATIENCE_S)
    async with calling() as (client, station):
        await client.post("/cameras", json={"name": "door", "url": "rtsp://10.0.0.5/"})
        asking = asyncio.create_task(client.get("/cameras/door/stream.mjpg"))
        deadline_s = time.monotonic() + PATIENCE_S
        while not station.viewers.viewers:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.005)
        await client.delete("/cameras/door")
        answer = await asyncio.wait_for(asking, PATIENCE_S)

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


async def test_stream_repeats_its_picture_while_there_is_no_other(monkeypatch):
    monkeypatch.setattr(camera_routes, "REPEAT_S", 0.01)
    pixels = np.zeros((8, 8, 3), np.uint8)
    frame = Frame(camera="yard", sequence=1, at_s=1.0, media_s=None, pixels=pixels)
    viewers = Viewers(lambda name: Scene(view=View(frame=frame)), most=1, most_each=1)
    async with viewers.watch("yard") as watch:
        first = await watch.next(PATIENCE_S)
        parts = camera_routes._parts(watch, first)
        heard = b"".join([await asyncio.wait_for(anext(parts), PATIENCE_S) for _ in range(3)])
        await parts.aclose()

    whole = b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n" + heard
    pictures = message_from_bytes(whole.removesuffix(b"\r\n") + b"--\r\n").get_payload()
    assert [picture.get_content_type() for picture in pictures] == ["image/jpeg"] * 2
    assert pictures[0].get_payload(decode=True).startswith(b"\xff\xd8\xff")


async def test_list_says_whether_cameras_may_be_added_and_a_camera_whether_the_file_has_it(
    tmp_path,
):
    (tmp_path / "cameras.toml").write_text('[[camera]]\nname = "yard"\nurl = "rtsp://10.0.0.4/"\n')
    async with calling(cameras=tmp_path / "cameras.toml") as (client, _):
        await client.post("/cameras", json={"name": "door", "url": "rtsp://10.0.0.5/"})
        open_to_all = (await client.get("/cameras")).json()
    nowhere = parse_camera_networks("")
    async with calling(cameras=tmp_path / "cameras.toml", camera_networks=nowhere) as (client, _):
        closed = (await client.get("/cameras")).json()

    assert open_to_all["may_add"]
    assert [(one["name"], one["configured"]) for one in open_to_all["cameras"]] == [
        ("yard", True),
        ("door", False),
    ]
    assert not closed["may_add"]


async def test_list_leaves_out_a_camera_that_is_removed_while_it_is_made(monkeypatch):
    describe = Station.describe

    def too_late(self: Station, name: str) -> dict[str, Any]:
        if name == "door":
            self.remove(name)
        return describe(self, name)

    async with calling() as (client, _):
        for name in ("door", "gate"):
            body = {"name": name, "url": "rtsp://10.0.0.5/"}
            assert (await client.post("/cameras", json=body)).status_code == 201
        monkeypatch.setattr(Station, "describe", too_late)
        answer = await client.get("/cameras")

    assert answer.status_code == 200
    assert [camera["name"] for camera in answer.json()["cameras"]] == ["gate"]
