"""HTTP/1.1 with callers that may be slow, or only pretend to be: every wait has an end."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedfleet.errors import InvalidInput, TimedOut
from fedfleet_inference_api.answers import HEADERS, error_json
from fedfleet_inference_api.cameras.streams import LIVE


class TimedProtocol(H11Protocol):
    """One connection. The original waits for ever for whatever has begun.

    Args:
        stall_s: for all of a request's headers from their first byte (or the connection's
            beginning) on; without a byte of a body, or of an answer that the caller reads.
        body_s: for a whole body, and for an answer that is read slowly.
    """

    def __init__(self, *, stall_s: float, body_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._stall_s = stall_s
        self._body_s = body_s
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._is_upgraded = False
        self._body_until_s: float | None = None
        self._unread_bytes = 0
        self._unread_until_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Tell of whatever has to wait: what is less than a buffer keeps a closed connection open.
        transport.set_write_buffer_limits(high=1)  # with 0 TLS waits for ever
        self._in_headers = True
        self._reading = self.loop.call_later(self._stall_s, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_upgraded:
            self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection on; from here its time is watched by the protocol of sockets."""
        self._is_upgraded = True
        self._cancel()
        super().handle_websocket_upgrade(event)

    def shutdown(self) -> None:
        """As the original; an answer that goes on and is not read now is cut off."""
        super().shutdown()
        is_live = self.cycle is not None and self.cycle.scope.get(LIVE, False)
        if is_live and self._writing is not None:
            self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_until_s = self.loop.time() + self._body_s
        self._await_reader()

    def resume_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    def _await_reader(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self._stall_s, self._check_reader)

    def _check_reader(self) -> None:
        is_read = self.transport.get_write_buffer_size() < self._unread_bytes
        if is_read and self.loop.time() < self._unread_until_s:
            self._await_reader()
        else:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """In the form of every other answer."""
        self._answer(400, InvalidInput.code, "this is not an HTTP request that can be read")

    def _watch(self) -> None:
        """Set the time until which the caller has to send what comes next."""
        state = self.conn.their_state
        if state is h11.SEND_BODY and not self.transport.is_closing():
            now_s = self.loop.time()
            if self._body_until_s is None:
                self._body_until_s = now_s + self._body_s
            self._cancel()
            at_s = min(now_s + self._stall_s, self._body_until_s)
            self._reading = self.loop.call_at(at_s, self._expire)
            return
        self._body_until_s = None
        if state is h11.IDLE and self.conn.trailing_data[0] and not self.transport.is_closing():
            if not self._in_headers:  # a byte now and then gives no more time
                self._cancel()
                self._in_headers = True
                self._reading = self.loop.call_later(self._stall_s, self._expire)
            return
        self._cancel()
        self._in_headers = False

    def _cancel(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _expire(self) -> None:
        if self.transport.is_closing():
            return
        until_s = self._body_until_s
        if until_s is not None and self.flow.read_paused and self.loop.time() < until_s:
            self._watch()  # the body waits for us
            return
        is_answered = until_s is not None and self.cycle.response_started
        if is_answered or (until_s is None and not self.conn.trailing_data[0]):
            self.transport.close()
            return
        if until_s is not None:  # the application hears that the caller has gone
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._answer(408, TimedOut.code, "the request did not come to its end in time")

    def _answer(self, status: int, code: str, message: str) -> None:
        """Answer in the application's place and close."""
        response = error_json(status, code, message, {**HEADERS, "connection": "close"})
        for event in (
            h11.Response(status_code=status, headers=response.raw_headers),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
