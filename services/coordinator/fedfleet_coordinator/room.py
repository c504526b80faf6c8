"""The bound on what is received at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fedfleet.wire.limits import CHUNK_BYTES
from fedfleet_coordinator.metrics import CoordinatorMetrics


class Room:
    """Room for so many chunks. Those who wait for it take turns.

    A stream is not read before there is room for what would come, so that flow control holds the
    worker back. A worker that is slow gives its room up after a moment; what it sends then is one
    chunk more in memory.
    """

    def __init__(self, size_mb: int, metrics: CoordinatorMetrics) -> None:
        self._chunks = asyncio.Semaphore((size_mb << 20) // CHUNK_BYTES)
        self._metrics = metrics

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Wait for room for one chunk, and keep it."""
        async with self._chunks:
            self._metrics.in_flight.inc(CHUNK_BYTES)
            try:
                yield
            finally:
                self._metrics.in_flight.dec(CHUNK_BYTES)
