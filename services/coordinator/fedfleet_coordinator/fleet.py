"""The workers that are connected, and those that were: sessions with an outbox each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from uuid import uuid4

from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_coordinator.metrics import CoordinatorMetrics

logger = logging.getLogger(__name__)

OUTBOX = 64


@dataclass(eq=False)
class Session:
    """One open stream. ``outbox`` is bounded: a worker that does not read is let go.

    Attributes:
        assignment_id, progress_ratio: of its last report of progress; that may have ended since.
    """

    hello: pb.Hello
    connected_at_s: float
    last_seen_s: float
    session_id: str = field(default_factory=lambda: uuid4().hex)
    outbox: asyncio.Queue[pb.ConnectResponse | None] = field(
        default_factory=lambda: asyncio.Queue(OUTBOX)
    )
    assignment_id: str = ""
    progress_ratio: float = 0.0

    @property
    def worker_id(self) -> str:
        return self.hello.worker_id


@dataclass
class Known:
    """What is remembered of a worker after its stream ended."""

    session: Session
    connected: bool = True
    updates: int = 0


class Fleet:
    """Sessions by worker id; tells listeners whenever the set of connected workers changes."""

    def __init__(self, metrics: CoordinatorMetrics) -> None:
        self._metrics = metrics
        self.known: dict[str, Known] = {}
        self._listeners: set[Callable[[], None]] = set()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function after each change; returns the call that ends this."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    @property
    def connected(self) -> frozenset[str]:
        """Ids of the workers with an open stream."""
        return frozenset(name for name, known in self.known.items() if known.connected)

    def tags(self, worker_id: str) -> Collection[str]:
        """What a known worker carries, by its last hello."""
        return self.known[worker_id].session.hello.tags

    def join(self, session: Session) -> None:
        """Enter a session; a former one of the same worker is ended, the newest counts."""
        former = self.known.get(session.worker_id)
        if former is not None and former.connected:
            # Told as a leave and a join, so that its assignments are sent again.
            reason = "another worker with this id connected"
            goodbye = pb.Goodbye(reason=reason, reconnect=True)
            self.send(session.worker_id, pb.ConnectResponse(goodbye=goodbye))
            self._end(former.session)
            former.connected = False
            self._changed()
        updates = former.updates if former else 0
        self.known[session.worker_id] = Known(session, updates=updates)
        logger.info("worker_joined", extra={"worker_id": session.worker_id})
        self._changed()

    def leave(self, session: Session) -> None:
        """Take a session out, unless a newer one has taken its place."""
        known = self.known.get(session.worker_id)
        if known is not None and known.session is session and known.connected:
            known.connected = False
            logger.info("worker_left", extra={"worker_id": session.worker_id})
            self._changed()

    def send(self, worker_id: str, message: pb.ConnectResponse) -> bool:
        """Put a message into a connected worker's outbox; False when it was not connected."""
        known = self.known.get(worker_id)
        if known is None or not known.connected:
            return False
        try:
            known.session.outbox.put_nowait(message)
        except asyncio.QueueFull:
            logger.warning("worker_not_reading", extra={"worker_id": worker_id})
            self._end(known.session)
            self.leave(known.session)
            return False
        return True

    def close(self, reason: str) -> None:
        """Say goodbye to every worker and ask it to dial again."""
        goodbye = pb.ConnectResponse(goodbye=pb.Goodbye(reason=reason, reconnect=True))
        for known in self.known.values():
            if known.connected:
                if not known.session.outbox.full():
                    known.session.outbox.put_nowait(goodbye)
                self._end(known.session)

    def _end(self, session: Session) -> None:
        """End a session's outbox; a full one loses its oldest message to make room."""
        if session.outbox.full():
            session.outbox.get_nowait()
        session.outbox.put_nowait(None)

    def _changed(self) -> None:
        self._metrics.workers.set(len(self.connected))
        for listener in list(self._listeners):
            listener()
