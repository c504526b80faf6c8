"""Follows an alias in the registry and swaps what is served, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fedfleet.errors import Conflict, FedFleetError, StoreUnavailable, VersionInvalid
from fedfleet.obs.logs import log_context
from fedfleet.store.audit import Audit, Deed
from fedfleet.store.protocols import Registry, VersionRecord
from fedfleet_inference_api.alias_reader import AliasReader
from fedfleet_inference_api.attempts import Attempts
from fedfleet_inference_api.following import (
    Following,
    Refused,
    Target,
    is_of,
    is_same,
    of_model,
    of_other_model,
    under,
)
from fedfleet_inference_api.freeing import give_back
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.rolled_back import RolledBack
from fedfleet_inference_api.servable import Servable
from fedfleet_inference_api.trial import Trial

logger = logging.getLogger(__name__)

ACTOR = "inference"

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


@dataclass
class _MoveBack:
    """An alias that is to be moved back in the registry.

    Args:
        target: what it names, unless somebody moves it meanwhile.
        is_recorded: it stands in the audit log.
    """

    target: Target
    back: VersionRecord
    is_recorded: bool = False


class Follower:
    """Looks at the registry every ``poll_s`` seconds; serves what the alias points at.

    A version that cannot be loaded leaves the old one serving, and is tried again ever more
    rarely. Where there is no old one, the last good one before it is looked for.

    ``following`` is replaced under a lock, by this thread and by whoever rolls back; nobody waits
    for the registry or for a load under it.

    Args:
        audit: where a move of the alias is recorded before it is made.
        actor: whose deed that is, as the audit log names it.
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
        audit: Audit,
        *,
        actor: str = ACTOR,
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
        self._audit = audit
        self._actor = actor
        self._lock = threading.Lock()
        self._reader = AliasReader(registry, course.model, course.alias)
        self._pending = True  # the alias may point elsewhere than at what is served
        self._target: Target | None = None  # what the alias pointed at when it was last read
        self._attempts = Attempts(clock)
        self._candidate_attempts = Attempts(clock)
        self._searches = Attempts(clock)  # for what may stand in for a version that was rolled back
        self._left = RolledBack()
        self._trials = [
            Trial(course.rollback_failures, course.rollback_window_s, clock) for _ in range(2)
        ]
        self._move_back: _MoveBack | None = None
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
            if self._reader.has_news():
                self._pending = True
            if self._pending and not self.following.is_held:
                self._pending = False  # before the look: what is reported during it counts
                self._look()
            self._looked()
        except FedFleetError as error:
            if self.following.failure == self._fault:  # once, not at every look
                logger.warning("registry_unreadable", exc_info=True)
            self._look_failed(f"the registry cannot be read: {error.code}: {error.message}")

    def _look(self) -> None:
        self._target = target = self._reader.target()
        if target is None:
            return
        candidate = self._read_candidate(target.record.model)
        # Both before either is followed: what fails from now on is left at these revisions.
        self._note_read(self._course.alias, target)
        if candidate is not None:
            self._note_read(self._course.canary_alias, candidate)
        self._follow(target)
        if self._course.canary_alias:
            self._follow_candidate(candidate)

    def _read_candidate(self, model: str) -> Target | None:
        alias = self._course.canary_alias
        return self._reader.named(model, alias) if alias else None

    def _note_read(self, alias: str, target: Target) -> None:
        if self._left.read(alias, target):
            with self._lock:
                for trial in self._trials:
                    trial.restart(target.record)

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

    # Loading and switching.

    def _follow(self, target: Target) -> None:
        record = target.record
        now = self.following
        with log_context(model=record.model, version=record.number, round=record.round):
            if self._is_left(record):
                # Not tried again until its alias is set anew, and perhaps still what answers.
                if now.current is not None or self._attempts.is_due(target):
                    self._stand_in(target)
            elif (at_hand := now.at_hand(record)) is not None:
                self._settle(under(at_hand, self._course.alias))
                return
            elif self._attempts.is_due(target):
                if self._swap(target):
                    return
            else:
                self._pending = True
                if now.current is not None:
                    self._stand_in(target)
        self._restate(target)

    def _swap(self, target: Target) -> bool:
        """Load and serve; whether that went well."""
        record, started_s = target.record, time.perf_counter()
        try:
            servable = self._load(record, self._course.alias)
        except FedFleetError as error:
            self._refuse(record, error)
            self._attempts.failed(target, _could_not(record, error))
            self._pending = True
            self._restate(target)
            if not isinstance(error, StoreUnavailable):
                self._unname(record)
                self._stand_in(target)
            return False
        load_s = time.perf_counter() - started_s
        self._metrics.load_s.observe(load_s)
        self._settle(servable)
        logger.info("version_served", extra={"digest": record.digest, "load_s": round(load_s, 4)})
        give_back()  # what the version before the previous one was made of
        return True

    def _settle(self, servable: Servable) -> None:
        """Serve a version from the next request on, and keep the one before it."""
        record = servable.record
        with self._lock:
            now = self.following
            self._attempts.succeeded()
            if now.is_held or self._is_left(record):  # somebody went back meanwhile
                return
            refused = now.without_refused(record)
            if is_of(now.current, record):
                self._put(current=servable, failure="", refused=refused)
                return
            self._put(
                current=servable,
                previous=self._kept(now.current),
                candidate=None if is_of(now.candidate, record) else now.candidate,
                failure="",
                refused=refused,
            )
            self._metrics.swaps.labels("swapped").inc()

    def _unname(self, record: VersionRecord) -> None:
        """Have what goes on answering beside a refused version be called by no alias."""
        with self._lock:
            now = self.following
            if now.current is not None and not now.is_held and not is_of(now.current, record):
                self._put(current=under(now.current, ""))

    def _kept(self, before: Servable | None) -> Servable | None:
        """What was served before, as it is kept: no alias points at it any more."""
        if before is None or self._is_left(before.record):
            return None
        return under(before, "")

    def _restate(self, target: Target) -> None:
        """Say why the target is not what answers, and what is wrong with what does."""
        alias = self._course.alias
        with self._lock:
            now = self.following
            reasons = [self._left.reason(target.record, alias) or self._attempts.reason(target)]
            if now.current is not None and not is_same(now.current.record, target.record):
                reasons.append(self._left.reason(now.current.record, alias))
            failure = "; ".join(filter(None, reasons))
            if failure != self._fault and failure and not now.is_held:
                self._put(failure=failure)

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
            self._put(refused=self.following.with_refused(Refused.now(record, error)))

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._put(failure=reason)
            self._pending = True

    def _stand_in(self, target: Target) -> None:
        """Where nothing answers, or only what was rolled back, serve what is fit before it."""
        current = self.following.current
        if current is not None:
            if not self._is_left(current.record):
                return
            self._pending = True
            if not self._searches.is_due(Target(current.record, 0)):
                return
        if self._fall_back(target):
            self._searches.succeeded()
        else:
            self._leave_model()

    def _fall_back(self, target: Target) -> bool:
        """Serve the last good version before the target; whether there is one."""
        for record in self._reader.older(target, self._is_left):
            if self._stopping.is_set():
                return False
            with log_context(version=record.number, round=record.round):
                try:
                    servable = self._load(record, "")
                except FedFleetError as error:
                    self._refuse(record, error)
                    continue
                with self._lock:
                    now = self.following
                    if now.is_held:  # somebody went back while this one was loaded
                        return True
                    self._put(
                        current=servable,
                        previous=of_other_model(now.previous, record.model),
                        refused=now.without_refused(record),
                    )
                self._metrics.swaps.labels("fell_back").inc()
                logger.warning("older_version_served", extra={"digest": record.digest})
                return True
        return False

    def _leave_model(self) -> None:
        """Serve ``previous``, of another model: nothing else of the model that is stuck can be."""
        with self._lock:
            now = self.following
            if now.is_held or now.previous is None or self._is_left(now.previous.record):
                return
            self._put(current=now.previous, previous=None)
        self._metrics.swaps.labels("fell_back").inc()
        logger.warning("other_model_served", extra={"model": now.previous.record.model})

    # The candidate.

    def _follow_candidate(self, target: Target | None) -> None:
        """Have the canary alias's version at hand, where it is another than what is served."""
        now = self.following
        if (
            target is None
            or is_of(now.current, target.record)
            or self._is_left(target.record, self._course.canary_alias)  # in production, too
        ):
            wanted: Servable | None = None
        elif is_of(now.candidate, target.record):
            return  # its trial and its standing go on
        else:
            at_hand = now.at_hand(target.record)
            wanted = (
                self._load_candidate(target)
                if at_hand is None
                else under(at_hand, self._course.canary_alias)
            )
        with self._lock:
            now = self.following
            if wanted is None:
                self._put(candidate=None)
            elif not self._is_left(wanted.record, wanted.alias):  # else it failed meanwhile
                self._put(candidate=wanted, refused=now.without_refused(wanted.record))

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
        record, is_unfit = servable.record, isinstance(error, VersionInvalid)
        with self._lock:
            now = self.following
            if is_of(now.candidate, record):
                if self._trials[1].has_failed(servable, is_unfit=is_unfit):
                    self._drop_candidate(servable, error)
            elif is_of(now.current, record):
                if self._is_left(record):  # it is known, and another one is looked for
                    self._pending = True
                elif self._trials[0].has_failed(servable, is_unfit=is_unfit):
                    self._leave(servable, error)
            current = self.following.current
            if is_of(current, record):
                return self._way_back(self.following)
            return of_model(current, record.model)

    def _drop_candidate(self, servable: Servable, error: FedFleetError) -> None:
        self._left.add(servable.record, _was_rolled_back(servable, error))
        self._put(candidate=None, refused=self._rolled_back(servable, error))
        self._metrics.swaps.labels("candidate_dropped").inc()

    def _leave(self, servable: Servable, error: FedFleetError) -> None:
        if self.following.is_held:
            self._put(failure=f"{servable.title}: {error.code}: {error.message}")
        else:
            self._roll_back(servable, error)

    def _roll_back(self, servable: Servable, error: FedFleetError) -> None:
        now, target, back = self.following, self._target, self._way_back(self.following)
        reason = _was_rolled_back(servable, error)
        self._left.add(servable.record, reason)
        is_target = target is not None and is_same(target.record, servable.record)
        if target is not None and is_target and back is not None and self._course.moves_alias:
            self._move_back = _MoveBack(target, back.record)
        self._pending = True
        self._put(
            current=under(back, "") if back else now.current,
            previous=None if back else now.previous,  # of another model: if all else fails
            failure=reason,
            refused=self._rolled_back(servable, error),
        )
        self._metrics.swaps.labels("rolled_back").inc()

    def _is_left(self, record: VersionRecord, alias: str = "") -> bool:
        """Whether a version was rolled back; of the followed alias where none is named."""
        return self._left.holds(record, alias or self._course.alias)

    def _way_back(self, now: Following) -> Servable | None:
        """The version before, where it may answer instead: of the same model, and fit."""
        current, previous = now.current, now.previous
        if current is None or previous is None or now.is_held or self._is_left(previous.record):
            return None
        return of_model(previous, current.record.model)

    def _rolled_back(self, servable: Servable, error: FedFleetError) -> tuple[Refused, ...]:
        record = servable.record
        self._metrics.refused_versions.labels(error.code).inc()
        logger.warning(
            "version_rolled_back",
            extra={"model": record.model, "version": record.number, "code": error.code},
        )
        return self.following.with_refused(Refused.now(record, error, was_served=True))

    def _return_alias(self) -> None:
        """Move the alias back where the settings say so and nobody has moved it meanwhile."""
        move = self._move_back
        if move is None:
            return
        record = move.back
        try:
            if not move.is_recorded:  # before it is done, as the coordinator has it
                self._record(move)
                move.is_recorded = True
            self._registry.set_alias(
                record.model, self._course.alias, record.number, move.target.revision
            )
            logger.info("alias_moved_back", extra={"version": record.number})
        except StoreUnavailable:
            raise  # tried again at the next look
        except FedFleetError as error:
            logger.warning("alias_not_moved_back", exc_info=True)
            if move.is_recorded:
                self._record(move, refused=error.code)
        if self._move_back is move:  # another may have come meanwhile
            self._move_back = None

    def _record(self, move: _MoveBack, **more: str) -> None:
        fields = {
            "alias": self._course.alias,
            "version": move.back.number,
            "left_version": move.target.record.number,
            "expected_revision": move.target.revision,
        }
        deed = Deed(
            at_s=time.time(),
            actor=self._actor,
            action="roll_back_alias",
            object=f"model/{move.back.model}",
            fields={**fields, **more},
        )
        self._audit.append(deed)

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
            back = under(now.previous, "")
            self._put(current=back, previous=now.current, is_held=True, failure="")
            self._metrics.swaps.labels("held").inc()
        logger.warning("rolled_back_by_hand")

    def resume(self) -> None:
        """Follow the alias again."""
        with self._lock:
            if self.following.is_held:  # else a version that is refused would seem to be none
                self._put(is_held=False, failure="")
            self._pending = True
        logger.info("follows_again")


def _could_not(record: VersionRecord, error: FedFleetError) -> str:
    return (
        f"{record.model} version {record.number} could not be loaded: {error.code}: {error.message}"
    )


def _was_rolled_back(servable: Servable, error: FedFleetError) -> str:
    return f"{servable.title} was rolled back: {error.code}: {error.message}"
