"""Follows an alias in the registry and swaps what is served, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fedfleet.errors import Conflict, FedFleetError, StoreUnavailable, VersionInvalid
from fedfleet.obs.logs import log_context
from fedfleet.store.protocols import Registry, VersionRecord
from fedfleet_inference_api.attempts import Attempts
from fedfleet_inference_api.following import Following, Refused, Target, is_same
from fedfleet_inference_api.freeing import give_back
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.servable import Servable
from fedfleet_inference_api.trial import Trial

logger = logging.getLogger(__name__)

EVENTS_AT_ONCE = 1000
# Older versions that are tried where nothing is served and the newest one is refused.
MOST_OLDER = 5
PREVIOUS = "previous"

# Builds a version and warms it up, or raises a FedFleetError that says why it cannot be served.
Load = Callable[[VersionRecord, str], Servable]
Changed = Callable[[Following, Following], None]


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is followed, and when it is left again.

    Args:
        model: name of the model, or empty for the one whose registry entry changed last.
        canary_alias: alias of the candidate, or empty.
        rollback_failures, rollback_window_s: see ``Trial``.
        moves_alias: a rollback moves the alias in the registry back, too.
    """

    model: str = ""
    alias: str = "latest"
    canary_alias: str = ""
    poll_s: float = 0.25
    rollback_failures: int = 3
    rollback_window_s: float = 60.0
    moves_alias: bool = False


class Follower:
    """Looks at the registry every ``poll_s`` seconds; serves what the alias points at.

    A version that cannot be loaded leaves the old one serving, and is tried again ever more
    rarely. Where there is no old one, the last good one before it is looked for.

    ``following`` is replaced under a lock, by this thread and by whoever rolls back; nobody waits
    for the registry or for a load under it.

    Args:
        prepare: called before each look; raises a FedFleetError where nothing can be loaded yet.
        changed: told, under the lock, of each change of ``following``; must return at once.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        registry: Registry,
        load: Load,
        metrics: Metrics,
        course: Course,
        *,
        prepare: Callable[[], None] = lambda: None,
        changed: Changed = lambda before, after: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.following = Following()
        self._registry = registry
        self._load = load
        self._prepare = prepare
        self._changed = changed
        self._metrics = metrics
        self._course = course
        self._lock = threading.Lock()
        self._last_event_id = 0
        self._recent: list[str] = []  # models by their last event, newest last
        self._pending = True  # the alias may point elsewhere than at what is served
        self._target: Target | None = None  # what the alias pointed at when it was last read
        self._candidate_target: Target | None = None
        self._attempts = Attempts(clock)
        self._candidate_attempts = Attempts(clock)
        self._trials = [
            Trial(course.rollback_failures, course.rollback_window_s, clock) for _ in range(2)
        ]
        self._move_back: tuple[Target, VersionRecord] | None = None
        self._fault = ""  # what is wrong with a version; a look that fails hides it for a while
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
            self._stopping.wait(self._course.poll_s)

    def poll(self) -> None:
        """Look once; load and swap when the alias points at another version."""
        try:
            self._prepare()
        except FedFleetError as error:
            if self.following.failure == self._fault:  # once, not at every look
                logger.warning("not_prepared", exc_info=True)
            self._look_failed(f"{error.code}: {error.message}")
            return
        try:
            self._return_alias()
            self._read_events()
            if self._pending and not self.following.is_held:
                self._pending = False  # before the look: what is reported during it counts
                self._look()
            self._looked()
        except FedFleetError as error:
            if self.following.failure == self._fault:  # once, not at every look
                logger.warning("registry_unreadable", exc_info=True)
            self._look_failed(f"the registry cannot be read: {error.code}: {error.message}")

    def _look(self) -> None:
        self._target = self._read_target()
        if self._target is not None:
            self._follow(self._target)
            self._follow_candidate(self._target.record.model)

    def _looked(self) -> None:
        """Say no longer that a look failed."""
        with self._lock:
            if self.following.failure != self._fault:
                self._put(failure=self._fault)

    def _look_failed(self, reason: str) -> None:
        """Say so until a look succeeds."""
        with self._lock:
            fault = self._fault
            self._put(failure=reason)
            self._fault = fault
            self._pending = True

    # What the registry says.

    def _read_events(self) -> None:
        while events := self._registry.events(self._last_event_id, EVENTS_AT_ONCE):
            for event in events:
                if event.model in self._recent:
                    self._recent.remove(event.model)
                self._recent.append(event.model)
            self._last_event_id = events[-1].event_id
            self._pending = True

    def _read_target(self) -> Target | None:
        """The version that should be served, None while the alias does not exist."""
        course = self._course
        for name in [course.model] if course.model else reversed(self._recent):
            target = self._read_alias(name, course.alias)
            if target is not None:
                return target
        return None

    def _read_alias(self, model: str, name: str) -> Target | None:
        alias = self._registry.aliases(model).get(name)
        if alias is None:
            return None
        return Target(self._registry.version(model, alias.number), alias.revision)

    # Loading and switching.

    def _follow(self, target: Target) -> None:
        record = target.record
        now = self.following
        with log_context(model=record.model, version=record.number, round=record.round):
            if self._attempts.is_banned(target):
                # It was rolled back with nothing to go back to, and is still what answers.
                if now.current is not None and is_same(now.current.record, record):
                    # Only ever set here: who rolls back meanwhile sets it, too.
                    self._pending = True
                    if self._attempts.is_due(target) and not self._fall_back(target):
                        self._leave_model()
            elif now.current is not None and is_same(now.current.record, record):
                self._settle(now.current)
            elif (at_hand := now.at_hand(record)) is not None:
                self._settle(replace(at_hand, alias=self._course.alias))
            elif self._attempts.is_due(target):
                self._swap(target)
            else:
                self._pending = True

    def _swap(self, target: Target) -> None:
        record, started_s = target.record, time.perf_counter()
        try:
            servable = self._load(record, self._course.alias)
        except FedFleetError as error:
            self._refuse(record, error)
            self._fail(_could_not(record, error))
            if self.following.current is None and not isinstance(error, StoreUnavailable):
                self._fall_back(target)
            return
        load_s = time.perf_counter() - started_s
        self._metrics.load_s.observe(load_s)
        self._settle(servable)
        logger.info("version_served", extra={"digest": record.digest, "load_s": round(load_s, 4)})
        give_back()  # what the version before the previous one was made of

    def _settle(self, servable: Servable) -> None:
        """Serve a version from the next request on, and keep the one before it."""
        with self._lock:
            now = self.following
            self._attempts.succeeded()
            if now.is_held:  # somebody went back while this one was loaded
                return
            if servable is now.current:
                self._put(failure="")
                return
            candidate = None if servable.record is _record(now.candidate) else now.candidate
            self._put(current=servable, previous=now.current, candidate=candidate, failure="")
            self._metrics.swaps.labels("swapped").inc()

    def _put(self, **changes: Any) -> None:
        """Replace what is served. Any: they are fields of ``Following``. Called under the lock."""
        before = self.following
        self._fault = changes.get("failure", self._fault)
        self.following = replace(before, **changes)
        current = self.following.current
        if current is not None and current is not before.current:
            self._metrics.serve(current.record, is_verified=current.is_verified)
            self._trials[0].begin(current)
        self._trials[1].begin(self.following.candidate)
        self._changed(before, self.following)

    def _refuse(self, record: VersionRecord, error: FedFleetError) -> None:
        self._metrics.swaps.labels("failed").inc()
        self._metrics.refused_versions.labels(error.code).inc()
        logger.warning("version_refused", exc_info=error)
        with self._lock:
            self._put(refused=self.following.with_refused(_refused(record, error)))

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._put(failure=reason)
            self._pending = True

    def _fall_back(self, target: Target) -> bool:
        """Serve the last good version before the one that is refused; whether there is one."""
        for record in self._older(target):
            if self._stopping.is_set():
                return False
            with log_context(version=record.number, round=record.round):
                try:
                    servable = self._load(record, "")
                except FedFleetError as error:
                    self._refuse(record, error)
                    continue
                with self._lock:
                    if self.following.is_held:  # somebody went back while this one was loaded
                        return True
                    self._put(current=servable, previous=None)
                self._metrics.swaps.labels("fell_back").inc()
                logger.warning("older_version_served", extra={"digest": record.digest})
                return True
        return False

    def _leave_model(self) -> None:
        """Serve ``previous``, of another model: nothing else of the model that is stuck can be."""
        with self._lock:
            now = self.following
            if now.is_held or now.previous is None:
                return
            self._put(current=now.previous, previous=None)
        self._metrics.swaps.labels("fell_back").inc()
        logger.warning("other_model_served", extra={"model": now.previous.record.model})

    def _older(self, target: Target) -> Iterator[VersionRecord]:
        """What the alias ``previous`` points at, then older versions, newest first."""
        newest = target.record
        previous = self._read_alias(newest.model, PREVIOUS)
        seen = {newest.number}
        found = [previous.record] if previous else []
        found += [v for v in self._registry.versions(newest.model) if v.number < newest.number]
        for record in found:
            if record.number in seen or record.retired_at_s is not None:
                continue
            if len(seen) > MOST_OLDER:
                return
            seen.add(record.number)
            yield record

    # The candidate.

    def _follow_candidate(self, model: str) -> None:
        """Have the canary alias's version at hand, where it is another than what is served."""
        if not self._course.canary_alias:
            return
        target = self._read_alias(model, self._course.canary_alias)
        self._candidate_target = target
        now = self.following
        if target is None or (now.current and is_same(now.current.record, target.record)):
            wanted: Servable | None = None
        elif self._candidate_attempts.is_banned(target):
            wanted = None
        elif now.candidate is not None and is_same(now.candidate.record, target.record):
            return  # the very same object: its trial and its standing go on
        else:
            wanted = now.at_hand(target.record)
            if wanted is None:
                wanted = self._load_candidate(target)
            elif wanted.alias != self._course.canary_alias:
                wanted = replace(wanted, alias=self._course.canary_alias)
        with self._lock:
            self._put(candidate=wanted)

    def _load_candidate(self, target: Target) -> Servable | None:
        record = target.record
        with log_context(model=record.model, version=record.number, round=record.round):
            if not self._candidate_attempts.is_due(target):
                self._pending = True
                return None
            try:
                servable = self._load(record, self._course.canary_alias)
            except FedFleetError as error:
                self._refuse(record, error)
                self._pending = True
                return None
            self._candidate_attempts.succeeded()
            logger.info("candidate_ready", extra={"digest": record.digest})
            return servable

    # Going back.

    def failed(self, servable: Servable, error: FedFleetError) -> Servable | None:
        """Take note that a version failed to answer; called from any thread.

        A version that gives no answer at all (VersionInvalid), or fails too often in its first
        time, is rolled back at once.

        While a rollback by hand is held, nothing is: the version that was left by hand is asked by
        nobody.

        Returns:
            The version to ask instead, of the same model; None where there is no other.
        """
        with self._lock:
            now, is_unfit = self.following, isinstance(error, VersionInvalid)
            if servable is now.candidate:
                if self._trials[1].has_failed(servable, is_unfit=is_unfit):
                    self._drop_candidate(servable, error)
            elif servable is now.current and self._trials[0].has_failed(
                servable, is_unfit=is_unfit
            ):
                if now.is_held:
                    self._put(failure=f"{servable.title}: {error.code}: {error.message}")
                else:
                    self._roll_back(servable, error)
            current = self.following.current
            return current if current is not servable else _way_back(self.following)

    def _drop_candidate(self, servable: Servable, error: FedFleetError) -> None:
        target = self._candidate_target
        if target is not None and is_same(target.record, servable.record):
            self._candidate_attempts.ban(target)
        self._put(candidate=None, refused=self._rolled_back(servable, error))

    def _roll_back(self, servable: Servable, error: FedFleetError) -> None:
        now, target, back = self.following, self._target, _way_back(self.following)
        if target is not None and is_same(target.record, servable.record):
            self._attempts.ban(target)
            if self._course.moves_alias and back is not None:
                self._move_back = (target, back.record)
        self._pending = True
        self._put(
            current=back or servable,
            previous=None if back else now.previous,  # of another model: if all else fails
            failure=f"{servable.title} was rolled back: {error.code}: {error.message}",
            refused=self._rolled_back(servable, error),
        )

    def _rolled_back(self, servable: Servable, error: FedFleetError) -> tuple[Refused, ...]:
        record = servable.record
        self._metrics.swaps.labels("rolled_back").inc()
        self._metrics.refused_versions.labels(error.code).inc()
        logger.warning(
            "version_rolled_back",
            extra={"model": record.model, "version": record.number, "code": error.code},
        )
        return self.following.with_refused(_refused(record, error, was_served=True))

    def _return_alias(self) -> None:
        """Move the alias back where the settings say so and nobody has moved it meanwhile."""
        if self._move_back is None:
            return
        target, record = self._move_back
        try:
            self._registry.set_alias(
                record.model, self._course.alias, record.number, target.revision
            )
            logger.info("alias_moved_back", extra={"version": record.number})
        except StoreUnavailable:
            raise  # tried again at the next look
        except FedFleetError:
            logger.warning("alias_not_moved_back", exc_info=True)
        self._move_back = None

    def hold_previous(self) -> None:
        """Go back to the version before, and stay there until ``resume``.

        Raises:
            Conflict: it was done already, or there is no version before.
        """
        with self._lock:
            now = self.following
            if now.is_held:
                raise Conflict("it is rolled back already: POST /served/follow ends that")
            if now.previous is None:
                raise Conflict("there is no version to go back to: none was served before")
            self._put(current=now.previous, previous=now.current, is_held=True, failure="")
            self._metrics.swaps.labels("rolled_back").inc()
        logger.warning("rolled_back_by_hand")

    def resume(self) -> None:
        """Follow the alias again."""
        with self._lock:
            self._put(is_held=False, failure="")
            self._pending = True
        logger.info("follows_again")


def _way_back(now: Following) -> Servable | None:
    """The version before, where it may answer instead: of the same model, not left by hand."""
    current, previous = now.current, now.previous
    if current is None or previous is None or now.is_held:
        return None
    return previous if previous.record.model == current.record.model else None


def _record(servable: Servable | None) -> VersionRecord | None:
    return servable.record if servable else None


def _refused(record: VersionRecord, error: FedFleetError, *, was_served: bool = False) -> Refused:
    return Refused(record.model, record.number, error.code, error.message, time.time(), was_served)


def _could_not(record: VersionRecord, error: FedFleetError) -> str:
    return (
        f"{record.model} version {record.number} could not be loaded: {error.code}: {error.message}"
    )
