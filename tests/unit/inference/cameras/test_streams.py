from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from fedfleet_inference_api.cameras.hub import EventHub
from fedfleet_inference_api.cameras.seen import CameraEvent, Frame, View
from fedfleet_inference_api.cameras.streams import LiveResponse
from fedfleet_inference_api.cameras.viewers import Picture, Scene, Viewers
from fedfleet_inference_api.cameras.waiting import happens

PATIENCE_S = 10.0
# Whoever is cancelled when the event it waits for has just come is in one of these.
MOST_TICKS = 8


async def ends(response: LiveResponse, ticks: int, happen: Callable[[], object]) -> bool:
    """Whether an answer ends whose caller leaves so many ticks of the loop before something."""
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    sent = asyncio.Event()

    async def send(message: Any) -> None:
        sent.set()

    answer = asyncio.create_task(response({"type": "http"}, receive, send))
    assert await happens(sent, PATIENCE_S)
    for _ in range(20):  # until it waits
        await asyncio.sleep(0)
    gone.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    happen()
    done, _ = await asyncio.wait({answer}, timeout=PATIENCE_S)
    return bool(done)


async def test_caller_who_leaves_at_the_moment_of_an_event_keeps_no_place():
    hub = EventHub(most_readers=MOST_TICKS)

    @asynccontextmanager
    async def told() -> AsyncIterator[AsyncIterator[bytes]]:
        async def texts() -> AsyncIterator[bytes]:
            yield b"begun"
            while (news := await reader.next(PATIENCE_S)) is not None:
                yield b"".join(one.text.encode() for one in news)

        with hub.subscribe() as reader:
            yield texts()

    def happen() -> None:
        hub.publish(CameraEvent(camera="yard", at_s=1.0, kind="state", fields={}))

    for ticks in range(MOST_TICKS):
        assert await ends(LiveResponse(told, "text/event-stream"), ticks, happen), ticks
        assert hub.readers == 0


async def test_caller_who_leaves_at_the_moment_of_a_picture_keeps_no_place():
    frame = Frame(
        camera="yard", sequence=1, at_s=1.0, media_s=None, pixels=np.zeros((8, 8, 3), np.uint8)
    )
    scenes = [Scene(view=None)]

    for ticks in range(MOST_TICKS):
        viewers = Viewers(lambda name: scenes[-1], most=1, most_each=1, pace_s=0.0)

        @asynccontextmanager
        async def shown(viewers: Viewers = viewers) -> AsyncIterator[AsyncIterator[bytes]]:
            async def pictures() -> AsyncIterator[bytes]:
                yield b"begun"
                while not watch.is_over:
                    picture = await watch.next(PATIENCE_S)
                    yield picture.jpeg if picture is not None else b""

            async with viewers.watch("yard") as watch:
                yield pictures()

        def happen(viewers: Viewers = viewers) -> None:
            scenes.append(Scene(view=View(frame=frame)))
            for show in viewers._shows.values():
                show.news.set()
                show.picture = Picture(number=1, view=View(frame=frame), jpeg=b"")
                show._wake()

        assert await ends(LiveResponse(shown, "image/jpeg"), ticks, happen), ticks
        assert viewers.viewers == 0
        scenes[:] = [Scene(view=None)]


async def test_happens_says_whether_it_did_and_leaves_nothing_behind():
    event = asyncio.Event()

    assert not await happens(event, 0.0)
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await happens(event, PATIENCE_S)
    assert await happens(event, 0.0)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1  # this test
