"""The workers that are connected, and those that were: sessions with an outbox each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from uuid import uuid4

from fedfleet.rounds.level_facts import Speed, Told
from fedfleet.rounds.levels import FULL
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire import limits
from fedfleet.wire.figures import clean
from fedfleet_coordinator.metrics import CoordinatorMetrics

logger = logging.getLogger(__name__)

OUTBOX = 64
# Training examples per second that a device may claim: beyond, a level's prediction says nothing.
_SPEEDS = (1e-3, 1e9)


@dataclass(eq=False)
class Session:
    """One open stream. ``outbox`` is bounded: a worker that does not read is let go.

    Attributes:
        device: of the hello, with what heartbeats have told since.
        heartbeat: the last one; None before the first.
        assignment_id, progress_ratio: of its last report of progress; that may have ended since.
    """

    hello: pb.Hello
    connected_at_s: float
    last_seen_s: float
    session_id: str = field(default_factory=lambda: uuid4().hex)
    outbox: asyncio.Queue[pb.ConnectResponse | None] = field(
        default_factory=lambda: asyncio.Queue(OUTBOX)
    )
    device: pb.DeviceProfile = field(init=False)
    heartbeat: pb.Heartbeat | None = None
    assignment_id: str = ""
    progress_ratio: float = 0.0

    def __post_init__(self) -> None:
        check_texts(self.hello)
        check_levels(self.hello.device.levels)
        self.hello.pause_reason = self.hello.pause_reason[: limits.MAX_REASON]
        clean(self.hello.device)
        self.device = pb.DeviceProfile()
        self.device.CopyFrom(self.hello.device)

    @property
    def worker_id(self) -> str:
        return self.hello.worker_id

    @property
    def pause_reason(self) -> str:
        """Why the worker takes no work now; empty when it does."""
        return (self.heartbeat or self.hello).pause_reason

    def hear(self, beat: pb.Heartbeat) -> None:
        """Take a heartbeat; raises LimitExceeded: it names too many levels."""
        check_levels(beat.levels)
        clean(beat)
        beat.pause_reason = beat.pause_reason[: limits.MAX_REASON]
        self.heartbeat = beat
        if beat.levels:
            del self.device.levels[:]
            self.device.levels.extend(beat.levels)
            full = (one.samples_per_s for one in beat.levels if one.level == FULL)
            self.device.samples_per_s = next(full, 0.0)
        if beat.link_down_bytes_per_s:
            self.device.link_down_bytes_per_s = beat.link_down_bytes_per_s
        if beat.link_up_bytes_per_s:
            self.device.link_up_bytes_per_s = beat.link_up_bytes_per_s


def check_texts(hello: pb.Hello) -> None:
    """Raises LimitExceeded: a text by which a worker describes itself is too long."""
    device = hello.device
    texts = {
        "machine": device.machine,
        "accelerator": device.accelerator,
        "os": device.os,
        "software_version": hello.software_version,
    }
    for name, text in texts.items():
        limits.check_count(f"characters in {name}", len(text), limits.MAX_DEVICE_TEXT)


def check_levels(levels: Collection[pb.LevelSpeed]) -> None:
    """Raises LimitExceeded: more than a worker may name, or a longer name."""
    limits.check_count("levels", len(levels), limits.MAX_LEVELS)
    for one in levels:
        limits.check_count("characters in a level", len(one.level), limits.MAX_NAME)
        limits.check_count("characters in a digest", len(one.model_digest), limits.MAX_NAME)


@dataclass
class Known:
    """What is remembered of a worker after its stream ended.

    Attributes:
        level: of its last assignment; empty before the first.
    """

    session: Session
    connected: bool = True
    updates: int = 0
    level: str = ""


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

    @property
    def ready(self) -> frozenset[str]:
        """Ids of the connected workers that do not rest on their device."""
        return frozenset(
            name
            for name, known in self.known.items()
            if known.connected and not known.session.pause_reason
        )

    @property
    def resting(self) -> frozenset[str]:
        """Ids of the connected workers that rest on their device."""
        return self.connected - self.ready

    def hear(self, session: Session, beat: pb.Heartbeat) -> None:
        """Take a heartbeat; raises LimitExceeded: it names too many levels."""
        before = bool(session.pause_reason)
        session.hear(beat)
        if bool(session.pause_reason) != before:
            self._changed()

    def tags(self, worker_id: str) -> Collection[str]:
        """What a known worker carries, by its last hello."""
        return self.known[worker_id].session.hello.tags

    def told(self, worker_id: str, model_digest: str) -> Told:
        """What a worker has said of itself, for a run's choice of its level.

        Args:
            model_digest: of the run (``ProbeTask.digest``): figures of another are left out.
        """
        known = self.known.get(worker_id)
        if known is None:
            return Told()
        device = known.session.device
        return Told(
            speeds={
                one.level: Speed(_speed(one.samples_per_s), float(one.memory_bytes))
                for one in device.levels
                if one.model_digest == model_digest
            },
            memory_bytes=float(device.memory_bytes),
            down_bytes_per_s=device.link_down_bytes_per_s,
            up_bytes_per_s=device.link_up_bytes_per_s,
        )

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
        self.known[session.worker_id] = Known(
            session,
            updates=former.updates if former else 0,
            level=former.level if former else "",
        )
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
        if message.WhichOneof("message") == "assignment":
            known.level = message.assignment.level
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


def _speed(samples_per_s: float) -> float:
    """As a run believes it; 0 stays, for what ran out of memory."""
    return min(max(samples_per_s, _SPEEDS[0]), _SPEEDS[1]) if samples_per_s else 0.0
