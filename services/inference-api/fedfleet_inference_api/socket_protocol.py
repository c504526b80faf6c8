"""WebSockets with callers that may be slow, or only pretend to be: every wait has an end."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# Nothing is asked of a caller but its handshake, its pongs and its farewell.
MOST_BYTES = 1024
# Of answers to pings; what the application sends waits until what is before it was read.
MOST_UNREAD = 64 * 1024


class TimedSocket(WebSocketsSansIOProtocol):
    """One connection behind its handshake's request.

    The original answers pings without end to a caller that does not read, waits for ever for
    bytes to be read when it closes, and for ever behind a handshake that it cannot understand.
    """

    stall_s = 10.0  # set by the server for all connections of its class

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.close_timeout = self.stall_s
        self._writing: asyncio.TimerHandle | None = None
        self._opening: asyncio.TimerHandle | None = None
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = self.loop.call_later(self.stall_s, self._check_open)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._writing, self._opening):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MOST_UNREAD:
            self.transport.pause_reading()  # else pings make answers that nobody reads

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()
        super().resume_writing()

    def shutdown(self) -> None:
        """As the original; who does not read now is cut off."""
        super().shutdown()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _await_reader(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self.stall_s, self._check_reader)

    def _check_reader(self) -> None:
        if self.transport.get_write_buffer_size() < self._unread_bytes:
            self._await_reader()
        else:
            self.transport.abort()

    def _check_open(self) -> None:
        if not self.handshake_complete:
            self.transport.abort()


def socket_class(stall_s: float) -> type[TimedSocket]:
    """The protocol with a limit on silence: uvicorn makes its instances itself."""
    return type("TimedSocket", (TimedSocket,), {"stall_s": stall_s})
