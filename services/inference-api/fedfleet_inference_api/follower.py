"""Follows an alias in the registry and swaps what is served, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedfleet.errors import FedFleetError
from fedfleet.obs.logs import log_context
from fedfleet.store.protocols import Registry, VersionRecord
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.servable import Servable

logger = logging.getLogger(__name__)

EVENTS_AT_ONCE = 1000
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0

# Builds a version and warms it up, or raises a FedFleetError that says why it cannot be served.
Load = Callable[[VersionRecord, str], Servable]


@dataclass(frozen=True)
class Following:
    """What is served. One reference to it is replaced as a whole, so readers need no lock.

    Args:
        previous: the version served before, kept for an instant way back.
        failure: why the last attempt to follow failed, empty when it did not.
    """

    current: Servable | None = None
    previous: Servable | None = None
    failure: str = ""


@dataclass(frozen=True)
class _Refused:
    """A version that could not be loaded, and when to try it again."""

    model: str
    number: int
    retry_at_s: float
    wait_s: float


class Follower:
    """Looks at the registry every ``poll_s`` seconds; serves what the alias points at.

    A version that cannot be loaded leaves the old one serving. It is tried again after 1 s, then
    2 s, up to a minute, and what the alias moves on to is tried at once.

    Args:
        prepare: called before each look; raises a FedFleetError where nothing can be loaded yet.
        model: name of the model, or empty for the one whose registry entry changed last.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        registry: Registry,
        load: Load,
        metrics: Metrics,
        *,
        model: str,
        alias: str,
        poll_s: float,
        prepare: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.following = Following()
        self._registry = registry
        self._load = load
        self._prepare = prepare
        self._metrics = metrics
        self._model = model
        self._alias = alias
        self._poll_s = poll_s
        self._clock = clock
        self._last_event_id = 0
        self._recent: list[str] = []  # models by their last event, newest last
        self._pending = True  # the alias may point elsewhere than at what is served
        self._refused: _Refused | None = None
        self._unforeseen = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry-follower")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the thread; a load that runs is finished first."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.poll()
                self._unforeseen = ""
            except Exception as error:
                # The supervisor: a follower that died would serve an old version for ever.
                if repr(error) != self._unforeseen:  # once, not at every look
                    logger.exception("registry_follower_failed")
                self._unforeseen = repr(error)
                self._fail("the newest version could not be loaded: see the service's log")
            self._stopping.wait(self._poll_s)

    def poll(self) -> None:
        """Look once; load and swap when the alias points at another version."""
        try:
            self._prepare()
        except FedFleetError as error:
            if not self.following.failure:  # once, not at every look
                logger.warning("not_prepared", exc_info=True)
            self._fail(f"{error.code}: {error.message}")
            return
        try:
            self._read_events()
            target = self._target() if self._pending else None
        except FedFleetError as error:
            if not self.following.failure:  # once, not at every look
                logger.warning("registry_unreadable", exc_info=True)
            self._fail(f"the registry cannot be read: {error.code}: {error.message}")
            return
        if target is not None:
            self._follow(target)
        elif self._pending:
            self._settle(self.following.current, self.following.previous)

    def _read_events(self) -> None:
        while events := self._registry.events(self._last_event_id, EVENTS_AT_ONCE):
            for event in events:
                if event.model in self._recent:
                    self._recent.remove(event.model)
                self._recent.append(event.model)
            self._last_event_id = events[-1].event_id
            self._pending = True

    def _target(self) -> VersionRecord | None:
        """The version that should be served, None while the alias does not exist."""
        for name in [self._model] if self._model else reversed(self._recent):
            alias = self._registry.aliases(name).get(self._alias)
            if alias is not None:
                return self._registry.version(name, alias.number)
        return None

    def _follow(self, target: VersionRecord) -> None:
        now = self.following
        if now.current is not None and _same(now.current.record, target):
            self._settle(now.current, now.previous)
        elif self._is_due(target):
            with log_context(model=target.model, version=target.number, round=target.round):
                self._swap(target)

    def _is_due(self, target: VersionRecord) -> bool:
        """Whether to load; plans the next attempt first, in case that this one fails."""
        refused, wait_s = self._refused, FIRST_RETRY_S
        if refused is not None and (refused.model, refused.number) == (target.model, target.number):
            if self._clock() < refused.retry_at_s:
                return False
            wait_s = min(2 * refused.wait_s, LONGEST_RETRY_S)
        self._refused = _Refused(target.model, target.number, self._clock() + wait_s, wait_s)
        return True

    def _swap(self, target: VersionRecord) -> None:
        started_s = time.perf_counter()
        try:
            servable = self._load(target, self._alias)
        except FedFleetError as error:
            self._metrics.swaps.labels("failed").inc()
            self._metrics.refused_versions.labels(error.code).inc()
            logger.warning("version_refused", exc_info=True)
            self._fail(
                f"{target.model} version {target.number} could not be loaded: "
                f"{error.code}: {error.message}"
            )
            return
        load_s = time.perf_counter() - started_s
        self._settle(servable, self.following.current)
        self._metrics.load_s.observe(load_s)
        self._metrics.swaps.labels("swapped").inc()
        self._metrics.serve(target, is_verified=servable.is_verified)
        logger.info("version_served", extra={"digest": target.digest, "load_s": round(load_s, 4)})

    def _settle(self, current: Servable | None, previous: Servable | None) -> None:
        self.following = Following(current, previous)
        self._pending = False
        self._refused = None

    def _fail(self, reason: str) -> None:
        self.following = Following(self.following.current, self.following.previous, reason)
        self._pending = True


def _same(left: VersionRecord, right: VersionRecord) -> bool:
    return (left.model, left.number, left.digest) == (right.model, right.number, right.digest)
