"""GET /events (Server-Sent Events) and /events/ws (WebSocket): what is told, as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from starlette.datastructures import QueryParams
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from fedfleet.errors import FedFleetError, InvalidInput, NotFound
from fedfleet.tables import suggest
from fedfleet_inference_api.answers import HEADERS, ErrorAnswer, error_response
from fedfleet_inference_api.cameras.hub import GAP, KEPT, EventHub, Reader, Told
from fedfleet_inference_api.cameras.seen import CameraEvent
from fedfleet_inference_api.cameras.streams import LiveResponse, end_all, until_gone

SUBPROTOCOL = "fedfleet.v1"
HEARTBEAT_S = 15.0
RETRY_MS = 2000
MOST_FILTERS = 64
LARGEST_ID = 2**53 - 1  # what JavaScript can hold
MOST_DIGITS = len(str(LARGEST_ID))
GOING_AWAY, POLICY = 1001, 1008
# All that there are: a filter that names another would be silent for ever.
KINDS = (
    *("track_started", "track_moved", "track_ended", "classified", "state"),
    *("version_served", "version_refused", "rolled_back", "candidate_ready", "candidate_left"),
    GAP,
)

ERRORS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}},
    400: {"model": ErrorAnswer, "description": "INVALID_INPUT"},
    404: {"model": ErrorAnswer, "description": "NOT_FOUND"},
    503: {"model": ErrorAnswer, "description": "UNAVAILABLE"},
    "default": {"model": ErrorAnswer, "description": "any other error"},
}
_Names = Annotated[
    list[str] | None, Query(max_length=MOST_FILTERS, description="only these; repeatable")
]
_After = Annotated[
    int | None,
    Query(ge=0, le=LARGEST_ID, description="id of the last event known; 0: begin with all kept"),
]
_Resumed = Annotated[
    int | None,
    Header(alias="Last-Event-ID", ge=0, le=LARGEST_ID, description="as after; goes before it"),
]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a reader asks for.

    Args:
        cameras, kinds: only events of these; empty: of all.
        after: id of the last event it knows, 0: every kept one; None: only those to come.
        last: begin with the newest so many kept ones.
    """

    cameras: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    after: int | None = None
    last: int = 0

    def wants(self, event: CameraEvent) -> bool:
        if event.kind == GAP:
            return True
        return (not self.cameras or event.camera in self.cameras) and (
            not self.kinds or event.kind in self.kinds
        )

    def begin(self, hub: EventHub) -> int | None:
        if self.after is None and self.last:
            return hub.place_before(self.last, self.wants)
        return self.after


def event_router(hub: EventHub, cameras: Callable[[], Collection[str]]) -> APIRouter:
    """The routes of events.

    Args:
        cameras: names of those that there are now.
    """
    router = APIRouter(tags=["events"])

    @router.get("/events", response_class=Response, responses=ERRORS)
    async def events(
        camera: _Names = None,
        kind: _Names = None,
        after: _After = None,
        last: Annotated[int, Query(ge=0, le=KEPT, description="begin with the newest so many")] = 0,
        last_event_id: _Resumed = None,
    ) -> Response:
        """Tell events as they happen, as Server-Sent Events; a comment now and then."""
        wish = Wish(
            cameras=frozenset(camera or ()),
            kinds=frozenset(kind or ()),
            after=after if last_event_id is None else last_event_id,
            last=last,
        )
        _check(wish, hub, cameras())
        return LiveResponse(lambda: _told(hub, wish), "text/event-stream")

    async def socket(websocket: WebSocket) -> None:
        """Tell events as messages of JSON; nothing is asked of the caller."""
        try:
            wish = read_wish(websocket.query_params)
            _check(wish, hub, cameras())
            with hub.subscribe(wish.begin(hub)) as reader:
                await _talk(websocket, reader, wish)
        except FedFleetError as error:  # before the handshake's answer: an ordinary one
            response = error_response(error, HEADERS)
            await response(websocket.scope, websocket.receive, websocket.send)

    router.add_websocket_route("/events/ws", socket)
    return router


def read_wish(query: QueryParams) -> Wish:
    """Read what the caller of a WebSocket asks for; the framework does it for the other route.

    Raises:
        InvalidInput: a number is none, or there are too many filters.
    """
    cameras, kinds = query.getlist("camera"), query.getlist("kind")
    if len(cameras) > MOST_FILTERS or len(kinds) > MOST_FILTERS:
        raise InvalidInput(f"camera, kind: at most {MOST_FILTERS} each")
    return Wish(
        cameras=frozenset(cameras),
        kinds=frozenset(kinds),
        after=_number(query, "after") if "after" in query else None,
        last=min(KEPT, _number(query, "last") if "last" in query else 0),
    )


def _check(wish: Wish, hub: EventHub, cameras: Collection[str]) -> None:
    """Refuse filters by which nothing would ever be told.

    Raises:
        InvalidInput: there is no such kind of event.
        NotFound: there is no such camera, and nothing is kept of one.
    """
    for kind in sorted(wish.kinds.difference(KINDS)):
        raise InvalidInput(f"kind = {kind[:50]!r}: no event is of it; {suggest(kind, list(KINDS))}")
    unknown = wish.cameras.difference(cameras, [""])  # events of the model have no camera
    if unknown:  # one that was removed meanwhile may still be read of
        unknown = unknown.difference(event.camera for event in hub.after(0))
    for name in sorted(unknown):
        raise NotFound(f"there is no camera {name[:64]!r}; {suggest(name, list(cameras))}")


def _number(query: QueryParams, name: str) -> int:
    text = query[name]
    # The length first: int() gives up at some thousand digits, also where they are zeros.
    is_number = len(text) <= MOST_DIGITS and text.isascii() and text.isdigit()
    if not is_number or int(text) > LARGEST_ID:
        raise InvalidInput(f"{name} = {text[:50]!r}: must be a whole number, 0 or more")
    return int(text)


@asynccontextmanager
async def _told(hub: EventHub, wish: Wish) -> AsyncIterator[AsyncIterator[bytes]]:
    with hub.subscribe(wish.begin(hub)) as reader:
        yield _lines(reader, wish)


async def _lines(reader: Reader, wish: Wish) -> AsyncIterator[bytes]:
    yield f"retry: {RETRY_MS}\n: events\n\n".encode()
    async for batch in _batches(reader, wish.wants):
        yield b"".join(_block(told) for told in batch) or b": still here\n\n"


def _block(told: Told) -> bytes:
    return f"id: {told.event.event_id}\nevent: {told.event.kind}\ndata: {told.text}\n\n".encode()


async def _batches(
    reader: Reader, wants: Callable[[CameraEvent], bool]
) -> AsyncIterator[list[Told]]:
    """What the reader wants; an empty batch where it has waited long for one."""
    loop = asyncio.get_running_loop()
    due_s = loop.time() + HEARTBEAT_S
    while (news := await reader.next(max(0.0, due_s - loop.time()))) is not None:
        wanted = [told for told in news if wants(told.event)]
        if wanted or loop.time() >= due_s:
            due_s = loop.time() + HEARTBEAT_S
            yield wanted


async def _talk(websocket: WebSocket, reader: Reader, wish: Wish) -> None:
    offered = websocket.scope.get("subprotocols", [])
    first: Message = await websocket.receive()
    assert first["type"] == "websocket.connect"
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    pump = asyncio.ensure_future(_send_all(websocket, reader, wish))
    leaving = asyncio.ensure_future(until_gone(websocket.scope, websocket.receive))
    try:
        await asyncio.wait({pump, leaving}, return_when=asyncio.FIRST_COMPLETED)
        code = GOING_AWAY if pump.done() else POLICY
    finally:
        await end_all(pump, leaving)
    with suppress(WebSocketDisconnect):
        if not pump.cancelled():
            pump.result()
        await websocket.close(code)


async def _send_all(websocket: WebSocket, reader: Reader, wish: Wish) -> None:
    async for batch in _batches(reader, wish.wants):
        for told in batch:
            await websocket.send_text(told.text)
