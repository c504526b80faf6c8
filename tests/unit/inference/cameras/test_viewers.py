from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import pytest
from PIL import Image

from fedfleet.errors import NotFound, Unavailable
from fedfleet_inference_api.cameras.seen import Frame, View
from fedfleet_inference_api.cameras.viewers import Picture, Scene, Viewers, Watch

PATIENCE_S = 10.0


class Stage:
    """Cameras of a test: what there is to show of each, and how often that was looked at."""

    def __init__(self, *names: str) -> None:
        self.scenes: dict[str, Scene] = {name: Scene(view=None) for name in names}
        self.looks = 0

    def look(self, name: str) -> Scene:
        self.looks += 1
        if name not in self.scenes:
            raise NotFound(name)
        return self.scenes[name]

    def film(self, viewers: Viewers, name: str, sequence: int) -> None:
        pixels = np.full((8, 8, 3), sequence, np.uint8)
        frame = Frame(camera=name, sequence=sequence, at_s=1.0, media_s=None, pixels=pixels)
        self.scenes[name] = Scene(view=View(frame=frame))
        viewers.tell(name)


@asynccontextmanager
async def watching(viewers: Viewers, *names: str) -> AsyncIterator[list[Watch]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(viewers.watch(name)) for name in names]


async def until(watch: Watch, sequence: int) -> Picture:
    """The picture of a frame; those before it are passed over."""
    while True:
        picture = await watch.next(PATIENCE_S)
        assert picture is not None
        if picture.view.frame.sequence == sequence:
            return picture


async def test_viewers_of_a_camera_share_one_encoded_picture():
    stage = Stage("yard")
    viewers = Viewers(stage.look, most=9, most_each=9, pace_s=0.01)
    async with watching(viewers, "yard", "yard", "yard") as watches:
        stage.film(viewers, "yard", 1)
        first = [await until(watch, 1) for watch in watches]
        stage.film(viewers, "yard", 2)
        second = [await until(watch, 2) for watch in watches]

    assert first[0].jpeg.startswith(b"\xff\xd8")
    assert all(picture is first[0] for picture in first)
    assert all(picture is second[0] for picture in second)
    assert second[0].number == 2


async def test_viewers_with_little_room_share_a_smaller_picture_and_the_bounds_hold_for_both():
    stage = Stage("yard")
    pixels = np.zeros((90, 1600, 3), np.uint8)
    viewers = Viewers(stage.look, most=9, most_each=3, pace_s=0.01)
    async with AsyncExitStack() as stack:
        watches = [
            await stack.enter_async_context(viewers.watch("yard", width))
            for width in (16, 640, 641)
        ]
        frame = Frame(camera="yard", sequence=1, at_s=1.0, media_s=None, pixels=pixels)
        stage.scenes["yard"] = Scene(view=View(frame=frame))
        viewers.tell("yard")
        pictures = [await until(watch, 1) for watch in watches]
        for width in (None, 640):
            with pytest.raises(Unavailable, match="3 viewers"):
                async with viewers.watch("yard", width):
                    pass
        assert viewers.viewers == 3

    sizes = [Image.open(io.BytesIO(picture.jpeg)).size for picture in pictures]
    assert sizes == [(640, 36), (640, 36), (1280, 72)]
    assert pictures[0] is pictures[1]
    assert viewers.viewers == 0


async def test_viewer_that_comes_later_gets_the_picture_of_now_and_a_slow_one_misses_some():
    stage = Stage("yard")
    viewers = Viewers(stage.look, most=9, most_each=9, pace_s=0.0)
    async with watching(viewers, "yard", "yard") as (fast, slow):
        for sequence in range(1, 6):
            stage.film(viewers, "yard", sequence)
            await until(fast, sequence)
        late = await slow.next(PATIENCE_S)
        async with watching(viewers, "yard") as (new,):
            now = await new.next(PATIENCE_S)

    assert late is now
    assert late is not None
    assert late.view.frame.sequence == 5


async def test_pictures_keep_their_pace():
    stage = Stage("yard")
    pace_s = 0.05
    viewers = Viewers(stage.look, most=9, most_each=9, pace_s=pace_s)
    loop = asyncio.get_running_loop()
    times = []
    async with watching(viewers, "yard") as (watch,):
        for sequence in range(1, 8):
            stage.film(viewers, "yard", sequence)
            await until(watch, sequence)
            times.append(loop.time())

    assert times[-1] - times[0] >= 5.5 * pace_s


async def test_viewers_are_bounded_together_and_for_each_camera():
    stage = Stage("yard", "door", "hall")
    counts: list[int] = []
    viewers = Viewers(stage.look, most=3, most_each=2, count=counts.append)
    async with watching(viewers, "yard", "yard"):
        with pytest.raises(Unavailable, match="2 viewers look at this camera"):
            async with viewers.watch("yard"):
                pass
        async with watching(viewers, "door"):
            with pytest.raises(Unavailable, match="3 viewers look on"):
                async with viewers.watch("hall"):
                    pass
    async with viewers.watch("yard"):
        pass

    assert counts == [1, 2, 3, 2, 1, 0, 1, 0]
    with pytest.raises(NotFound):
        async with viewers.watch("nowhere"):
            pass


async def test_camera_without_viewers_costs_nothing():
    stage = Stage("yard")
    viewers = Viewers(stage.look, most=9, most_each=9, pace_s=0.0)
    async with watching(viewers, "yard") as (watch,):
        stage.film(viewers, "yard", 1)
        await until(watch, 1)
    before = stage.looks
    for sequence in range(2, 50):
        stage.film(viewers, "yard", sequence)
    await asyncio.sleep(0)

    assert stage.looks == before
    assert len(asyncio.all_tasks()) == 1  # this test


async def test_show_ends_when_its_camera_is_removed():
    stage = Stage("yard")
    viewers = Viewers(stage.look, most=9, most_each=9)
    async with watching(viewers, "yard") as (watch,):
        waiting = asyncio.ensure_future(watch.next(PATIENCE_S))
        await asyncio.sleep(0)
        del stage.scenes["yard"]
        viewers.tell("yard")

        assert await waiting is None
        assert watch.is_over
    stage.scenes["yard"] = Scene(view=None)
    async with watching(viewers, "yard") as (again,):
        assert not again.is_over


async def test_close_ends_every_show_at_once_and_lets_no_one_in():
    stage = Stage("yard", "door")
    viewers = Viewers(stage.look, most=9, most_each=9)
    async with watching(viewers, "yard", "door", "door") as watches:
        waiting = [asyncio.ensure_future(watch.next(PATIENCE_S)) for watch in watches]
        await asyncio.sleep(0)
        threading.Thread(target=viewers.close).start()

        assert await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S / 2) == [None] * 3
        with pytest.raises(Unavailable):
            async with viewers.watch("yard"):
                pass
        with pytest.raises(Unavailable):
            await viewers.still("yard", width=None, is_raw=False)


async def test_picture_that_cannot_be_drawn_ends_the_show_and_is_logged(caplog):
    stage = Stage("yard")
    viewers = Viewers(stage.look, most=9, most_each=9)
    flat = np.zeros((4, 4, 5), np.uint8)  # no picture has five colours
    frame = Frame(camera="yard", sequence=1, at_s=1.0, media_s=None, pixels=flat)
    async with watching(viewers, "yard") as (watch,):
        stage.scenes["yard"] = Scene(view=View(frame=frame))
        viewers.tell("yard")

        assert await watch.next(PATIENCE_S) is None
        assert watch.is_over

    assert "live_pictures_failed" in caplog.text


async def test_still_is_a_picture_of_now_drawn_or_as_it_came():
    stage = Stage("yard")
    viewers = Viewers(stage.look, most=9, most_each=9)
    with pytest.raises(Unavailable, match="no picture yet"):
        await viewers.still("yard", width=None, is_raw=False)
    stage.film(viewers, "yard", 7)

    drawn = await viewers.still("yard", width=None, is_raw=False)
    raw = await viewers.still("yard", width=None, is_raw=True)

    assert drawn.jpeg != raw.jpeg
    assert drawn.view is raw.view
    assert raw.view.frame.sequence == 7
