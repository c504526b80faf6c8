"""Who asked for a prediction: how long it waits, and whether it is still there."""

from __future__ import annotations

import asyncio
import math
import time
from types import TracebackType

from fastapi import Request
from starlette.requests import ClientDisconnect

from fedfleet.errors import InvalidInput

TIMEOUT_HEADER = "x-request-timeout"


class Caller:
    """One request's caller, from the moment its body is whole.

    As a context manager it watches the connection: inside the ``with`` block nobody else reads
    from it.

    Args:
        longest_s: what the settings allow; the caller may ask for less.

    Raises:
        InvalidInput: the header is no number of seconds.
    """

    def __init__(self, request: Request, longest_s: float) -> None:
        self._request = request
        self.timeout_s = min(_asked_s(request), longest_s)
        self.deadline_s = time.monotonic() + self.timeout_s
        self.request_id = str(getattr(request.state, "request_id", ""))
        self._watch: asyncio.Task[None] | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the connection has ended; may be asked from any thread."""
        return self._watch is not None and self._watch.done()

    def has_left(self) -> bool:
        """As ``is_gone``, to be handed on."""
        return self.is_gone

    def check(self) -> None:
        """Raise ClientDisconnect where nobody waits any more."""
        if self.is_gone:
            raise ClientDisconnect

    def __enter__(self) -> Caller:
        self._watch = asyncio.ensure_future(self._wait_for_end())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()

    async def _wait_for_end(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass


def _asked_s(request: Request) -> float:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return math.inf
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidInput(f"{TIMEOUT_HEADER} = {text[:40]!r}: must be a number of seconds above 0")
    return seconds
