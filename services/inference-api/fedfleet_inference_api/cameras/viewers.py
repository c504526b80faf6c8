"""Live pictures for a bounded number of viewers: each frame is drawn and encoded once for all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from fedfleet.errors import NotFound, Unavailable
from fedfleet_inference_api.cameras.annotate import Outlines, annotate, raw
from fedfleet_inference_api.cameras.seen import View
from fedfleet_inference_api.cameras.waiting import happens

logger = logging.getLogger(__name__)

PACE_S = 0.1  # 10 pictures a second
LOOK_S = 1.0  # without news of a camera: is there another frame, or no such camera any more?
# Widths of live pictures: two, so that a camera is encoded twice at most, whoever looks on.
SMALL_WIDTH, LIVE_WIDTH = 640, 1280
MOST_STILLS = 16


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """What there is to show of a camera: a view, None before its first frame, and its zones."""

    view: View | None
    zones: Outlines = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """An encoded view. ``number`` grows by one with each picture of a show."""

    number: int
    view: View
    jpeg: bytes


# The scene of a camera, at once; raises NotFound where there is no such camera.
Look = Callable[[str], Scene]


class Viewers:
    """Shows cameras to those who look on. Used on one event loop, but for ``tell`` and ``close``.

    A camera that nobody looks at costs nothing: a show of it, one for each width, begins with the
    first viewer and ends with the last. A viewer that reads slowly misses pictures and holds no
    more than one.

    Args:
        most: viewers of all cameras together.
        most_each: viewers of one camera.
        count: told how many there are when that changes.
        pace_s: shortest time between two pictures of a camera.
    """

    def __init__(
        self,
        look: Look,
        *,
        most: int,
        most_each: int,
        count: Callable[[int], None] = lambda viewers: None,
        pace_s: float = PACE_S,
    ) -> None:
        self._look = look
        self._most = most
        self._most_each = most_each
        self._count = count
        self._pace_s = pace_s
        self._shows: dict[tuple[str, int], _Show] = {}  # by camera and width
        self._encoder: ThreadPoolExecutor | None = None
        self._stills = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_closed = False

    @property
    def viewers(self) -> int:
        return sum(show.viewers for show in self._shows.values())

    @asynccontextmanager
    async def watch(self, name: str, width: int | None = None) -> AsyncIterator[Watch]:
        """Look on at a camera.

        Args:
            width: that the pictures should have at least, in pixels, where the camera's and
                ``LIVE_WIDTH`` have it; None: as wide as they get.

        Raises:
            NotFound: no such camera.
            Unavailable: there are as many viewers as there may be, or the service stops.
        """
        place = (name, SMALL_WIDTH if width is not None and width <= SMALL_WIDTH else LIVE_WIDTH)
        show = self._admit(*place)
        show.viewers += 1
        self._count(self.viewers)
        try:
            yield Watch(show)
        finally:
            show.viewers -= 1
            if not show.viewers and self._shows.get(place) is show:
                del self._shows[place]
            self._count(self.viewers)
            if not show.viewers:
                await show.end()

    def _admit(self, name: str, width: int) -> _Show:
        self._check_open()
        self._look(name)
        if self.viewers >= self._most:
            raise Unavailable(f"{self._most} viewers look on already: close one, or try later")
        # Over: its last viewers are on their way out.
        shows = [show for show in self._of(name) if not show.is_over]
        if sum(show.viewers for show in shows) >= self._most_each:
            raise Unavailable(
                f"{self._most_each} viewers look at this camera already: close one, or try later"
            )
        show = self._shows.get((name, width))
        if show is None or show.is_over:
            self._loop = asyncio.get_running_loop()
            show = _Show(name, self._look, partial(self._encode, width=width), self._pace_s)
            self._shows[name, width] = show
        return show

    def _of(self, name: str) -> list[_Show]:
        found = (self._shows.get((name, width)) for width in (SMALL_WIDTH, LIVE_WIDTH))
        return [show for show in found if show is not None]

    async def still(self, name: str, *, width: int | None, is_raw: bool) -> Picture:
        """One picture of now.

        Raises:
            NotFound: no such camera.
            Unavailable: it has given no frame yet, or too many pictures are being made.
        """
        self._check_open()
        scene = self._look(name)
        if scene.view is None:
            raise Unavailable(f"camera {name!r} has given no picture yet: look at its state")
        if self._stills >= MOST_STILLS:
            raise Unavailable("too many pictures are being made: try again in a second")
        self._stills += 1
        try:
            jpeg = await self._encode(scene, width=width, is_raw=is_raw)
        finally:
            self._stills -= 1
        return Picture(number=1, view=scene.view, jpeg=jpeg)

    def _check_open(self) -> None:
        if self.is_closed:
            raise Unavailable("pictures are not shown any more: the service stops")

    async def _encode(self, scene: Scene, *, width: int | None, is_raw: bool = False) -> bytes:
        """On a thread of its own: pictures never wait for predictions, nor these for them."""
        if self._encoder is None:
            self._encoder = ThreadPoolExecutor(1, "pictures")
        loop = self._loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoder, _draw, scene, width, is_raw)

    def tell(self, name: str) -> None:
        """Say that a camera has another view, from any thread; costs nothing without viewers."""
        for show in self._of(name):
            if self._loop is not None:
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(show.news.set)

    def close(self) -> None:
        """End every show at once, from any thread; nobody is let in any more."""
        self.is_closed = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        for show in self._shows.values():
            show.stop()
        if self._encoder is not None:
            self._encoder.shutdown(wait=False)


def _draw(scene: Scene, width: int | None, is_raw: bool) -> bytes:
    assert scene.view is not None
    if is_raw:
        return raw(scene.view, width=width)
    return annotate(scene.view, width=width, zones=scene.zones)


class Watch:
    """One viewer of a show."""

    def __init__(self, show: _Show) -> None:
        self._show = show
        self._number = 0

    @property
    def is_over(self) -> bool:
        return self._show.is_over

    async def next(self, timeout_s: float) -> Picture | None:
        """The newest picture that this viewer has not had, None after a time, or at the end."""
        show = self._show
        if not show.is_over and (show.picture is None or show.picture.number <= self._number):
            await happens(show.changed, timeout_s)
        picture = show.picture
        if show.is_over or picture is None or picture.number <= self._number:
            return None
        self._number = picture.number
        return picture


class _Show:
    """The pictures of one camera while somebody looks on."""

    def __init__(
        self,
        name: str,
        look: Look,
        encode: Callable[[Scene], Awaitable[bytes]],
        pace_s: float,
    ) -> None:
        self.viewers = 0
        self.picture: Picture | None = None
        self.is_over = False
        self.news = asyncio.Event()  # the camera may have another view
        self.changed = asyncio.Event()  # another one for each picture, so that all who wait wake
        self._name = name
        self._look = look
        self._encode = encode
        self._pace_s = pace_s
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                await self._step()
        except NotFound:
            pass  # the camera was removed
        finally:
            self.is_over = True
            self._wake()

    async def _step(self) -> None:
        """Show what is new, not too often; else wait for news."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        self.news.clear()
        scene = self._look(self._name)
        if scene.view is None or not self._is_new(scene.view):
            await happens(self.news, LOOK_S)
            return
        jpeg = await self._encode(scene)
        number = self.picture.number + 1 if self.picture else 1
        self.picture = Picture(number=number, view=scene.view, jpeg=jpeg)
        self._wake()
        await asyncio.sleep(begun_s + self._pace_s - loop.time())

    def _is_new(self, view: View) -> bool:
        if self.picture is None:
            return True
        old = self.picture.view
        return (view.frame.sequence, view.seen_at_s) != (old.frame.sequence, old.seen_at_s)

    def _wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def stop(self) -> None:
        self._task.cancel()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            logger.error("live_pictures_failed", exc_info=error)
