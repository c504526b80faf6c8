"""Keeps the last events, and hands them to whoever reads along."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from fedfleet.errors import Unavailable
from fedfleet_inference_api.cameras.seen import CameraEvent
from fedfleet_inference_api.cameras.waiting import happens

KEPT = 1000
MOST_READERS = 64
# Told to a reader whose next events are not kept any more.
GAP = "gap"

Listener = Callable[[CameraEvent, str], None]


@dataclass(frozen=True, kw_only=True)
class Told:
    """An event as readers get it.

    Args:
        text: the event as one line of JSON; made once, whoever reads it.
    """

    event: CameraEvent
    text: str


class EventHub:
    """A ring of the last events with growing ids, and a place in it for each reader.

    Readers hold no queue of their own: one that is slower than the ring turns loses the oldest
    and is told how many. So events cost the same memory, however many read and however slowly.

    Ids begin at the milliseconds since the epoch: a reader that comes back after a restart of the
    service asks for what is after an id of before, and that must not be an id of afterwards.

    Args:
        kept: events in the ring.
        most_readers: that may read at once.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        kept: int = KEPT,
        most_readers: int = MOST_READERS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ring: deque[Told] = deque(maxlen=kept)
        self._most_readers = most_readers
        self.first_id = self._last_id = int(1000 * now())
        self._lock = threading.Lock()
        self._readers: set[Reader] = set()
        self._listeners: tuple[Listener, ...] = ()
        self.is_closed = False

    @property
    def last_id(self) -> int:
        """Id of the newest event; before the first one what its id will follow."""
        return self._last_id

    @property
    def readers(self) -> int:
        return len(self._readers)

    def publish(self, event: CameraEvent) -> CameraEvent:
        """Take an event in, from any thread; return it with its id. Never waits for a reader."""
        with self._lock:
            event = replace(event, event_id=self._last_id + 1)
            told = Told(event=event, text=_text(event))
            self._last_id = event.event_id
            self._ring.append(told)
            readers = tuple(self._readers)
            for listener in self._listeners:  # under the lock, so in the order of the ids
                listener(event, told.text)
        for reader in readers:
            reader.wake()
        return event

    def listen(self, listener: Listener) -> None:
        """Call with each event and its JSON from now on, on the thread that publishes it.

        A listener must return at once and raise nothing.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def after(self, event_id: int, limit: int = KEPT) -> list[CameraEvent]:
        """The oldest kept events after an id, at most ``limit``."""
        return [told.event for told in self.told_after(event_id, limit)]

    def told_after(self, event_id: int, limit: int) -> list[Told]:
        with self._lock:
            first = self._last_id - len(self._ring) + 1
            start = max(0, event_id + 1 - first)
            return list(islice(self._ring, start, start + limit))

    def place_before(self, count: int, wanted: Callable[[CameraEvent], bool]) -> int:
        """The id after which the newest ``count`` kept events that are wanted come."""
        with self._lock:
            for told in reversed(self._ring):
                if count <= 0:
                    return told.event.event_id
                count -= wanted(told.event)
            return self._last_id - len(self._ring)

    @contextmanager
    def subscribe(self, after_id: int | None = None) -> Iterator[Reader]:
        """Read along on the running event loop.

        Args:
            after_id: the last event that the reader knows; 0 is every kept one, None only those
                to come.

        Raises:
            Unavailable: too many read, or the hub is closed.
        """
        reader = Reader(self, self._last_id if after_id is None else after_id)
        with self._lock:
            if self.is_closed:
                raise Unavailable("events are not told any more: the service stops")
            if len(self._readers) >= self._most_readers:
                raise Unavailable(
                    f"{self._most_readers} callers read events already: try again later"
                )
            self._readers.add(reader)
        try:
            yield reader
        finally:
            with self._lock:
                self._readers.discard(reader)

    def close(self) -> None:
        """End every reader at once, from any thread."""
        with self._lock:
            self.is_closed = True
            readers = tuple(self._readers)
        for reader in readers:
            reader.wake()


class Reader:
    """One reader's place in the ring. Belongs to the event loop on which it was made."""

    def __init__(self, hub: EventHub, after_id: int) -> None:
        self._hub = hub
        # From another life of the service: what came since, nobody can count.
        self._is_elsewhere = bool(after_id) and not hub.first_id <= after_id <= hub.last_id
        self.after_id = 0 if self._is_elsewhere else after_id
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._is_woken = False

    def wake(self) -> None:
        """Say that there is news, from any thread; a crowd of events is one call."""
        if self._is_woken:
            return
        self._is_woken = True
        with suppress(RuntimeError):  # the loop is closed, and the reader gone with it
            self._loop.call_soon_threadsafe(self._news.set)

    async def next(self, timeout_s: float, limit: int = 100) -> list[Told] | None:
        """What comes next, oldest first; empty after a time without news, None at the end.

        Where events were lost the first one says so: ``gap``, with how many.
        """
        until_s = self._loop.time() + timeout_s
        while True:  # a call may come late, for events that were taken before it
            self._is_woken = False  # before the look: what comes after it calls again
            self._news.clear()
            if self._has_more():
                return None if self._hub.is_closed else self._take(limit)
            if not await happens(self._news, max(0.0, until_s - self._loop.time())):
                return None if self._hub.is_closed else []

    def _has_more(self) -> bool:
        return self._hub.is_closed or self._is_elsewhere or self._hub.last_id > self.after_id

    def _take(self, limit: int) -> list[Told]:
        newest = self._hub.last_id  # first: what is published meanwhile is not passed over
        found = self._hub.told_after(self.after_id, limit)
        oldest = found[0].event.event_id if found else newest + 1
        lost = oldest - self.after_id - 1 if self.after_id else 0
        if self._is_elsewhere or lost > 0:
            found = [_gap(lost, oldest - 1), *found]
        self._is_elsewhere = False
        self.after_id = found[-1].event.event_id if found else newest
        return found


def _gap(lost: int, event_id: int) -> Told:
    """What stands for events that nobody can tell any more; 0 lost: nobody knows how many."""
    event = CameraEvent(
        camera="",
        at_s=time.time(),
        kind=GAP,
        fields={"lost": lost} if lost else {},
        event_id=event_id,
    )
    return Told(event=event, text=_text(event))


def _text(event: CameraEvent) -> str:
    return json.dumps(event_json(event), default=float, allow_nan=False)


def event_json(event: CameraEvent) -> dict[str, Any]:
    """An event as a JSON object. Any: its fields are those of its kind."""
    return {
        "id": event.event_id,
        "at_s": round(event.at_s, 3),
        "kind": event.kind,
        "camera": event.camera,
        "fields": dict(event.fields),
        "model": dict(event.model),
    }
