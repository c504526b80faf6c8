"""Ends the coordinator's process by SIGKILL at a chosen point of its work.

The coordinator itself knows nothing of it: its functions are wrapped from outside, in the child
that ``doomed_coordinator.py`` makes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from durability.points import AT_FIRST_START, AT_START, LATEST, TIMED, Target

import fedfleet_coordinator.driver as driver
import fedfleet_coordinator.federation as federation
import fedfleet_coordinator.workshop as workshop
from fedfleet.identity import files
from fedfleet.rounds import events
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.store import (
    blob_files,
    blob_writer,
    redis,
    redis_blob_writer,
    redis_blobs,
    redis_connection,
    redis_journal,
    redis_lease,
    redis_partials,
    sqlite,
    sqlite_database,
    sqlite_journal,
    sqlite_lease,
)
from fedfleet.store.protocols import RunRecord


class Doom:
    """Counts passes of points and ends the process at the target's.

    Args:
        tell: gets one line before the process dies, or for a timed death.
    """

    def __init__(self, target: Target, tell: Callable[[str], None]) -> None:
        self._target = target
        self._tell = tell
        self._passes = 0
        self._lock = threading.Lock()
        self._within = threading.local()
        self.round = 0

    def at(self, point: str) -> None:
        """Pass a point."""
        target = self._target
        with self._lock:
            starts = point in AT_START or point in AT_FIRST_START
            if self.round < target.round and not starts:
                return
            if point == target.point:
                self._passes += 1
                if self._passes == target.passes:
                    self._end(point)
            elif point == LATEST.get(target.point):
                self._end(point)

    def _end(self, point: str) -> None:
        if point in TIMED:
            self._tell(f"in {self._target.delay_s}")
            return
        self._tell(f"at {point}")
        os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def within(self, point: str) -> Iterator[None]:
        """Whatever this thread does meanwhile is inside this point."""
        outer = getattr(self._within, "point", "")
        self._within.point = point or outer
        try:
            yield
        finally:
            self._within.point = outer

    def inside(self) -> None:
        """Pass the point that this thread is inside of, if it is inside of one."""
        point = getattr(self._within, "point", "")
        if point:
            self.at(point)


def wrap(
    doom: Doom, owner: Any, name: str, *, before: str = "", inside: str = "", after: str = ""
) -> None:
    """Have a function pass points; a point without a name is none."""
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            doom.at(before)
        with doom.within(inside):
            result = original(*args, **kwargs)
        if after:
            doom.at(after)
        return result

    setattr(owner, name, wrapped)


def wrap_coordinator(doom: Doom) -> None:
    """Have the coordinator's functions pass their points."""
    make, begin = workshop.Workshop.__init__, workshop.Workshop._begin

    def made(self: workshop.Workshop, run: RunRecord, *args: Any, **more: Any) -> None:
        doom.round = run.round + 1
        make(self, run, *args, **more)

    def begun(self: workshop.Workshop, round: int) -> None:
        begin(self, round)
        doom.round = round

    workshop.Workshop.__init__ = made  # type: ignore[method-assign]
    workshop.Workshop._begin = begun  # type: ignore[method-assign]
    wrap(doom, files, "_write", before="keeping")
    wrap(doom, files, "_sync_folder", before="kept")
    wrap(doom, events, "from_fields", after="replaying")
    wrap(doom, federation, "_receipt", before="receipt")
    wrap(doom, workshop.Workshop, "fold", before="folding", after="folded")
    wrap(doom, RoundSum, "outcome", after="aggregating")
    wrap(doom, workshop.Workshop, "make_next", after="made")
    wrap(doom, workshop.Workshop, "advance", after="advanced")
    wrap(doom, workshop.Workshop, "forget_run", before="forgetting_run")
    wrap(doom, driver, "observe_round", before="time_after_commit")


def wrap_sqlite(doom: Doom) -> None:
    """Have the embedded store pass its points."""
    open_database = sqlite_database.Database.__init__

    def traced(self: Any, *args: Any, **more: Any) -> None:
        open_database(self, *args, **more)
        self._connection.set_trace_callback(lambda _: doom.inside())  # before each statement

    sqlite_database.Database.__init__ = traced  # type: ignore[method-assign]
    journal, blobs = sqlite_journal.SqliteJournal, blob_files.BlobFiles
    wrap_store(doom, sqlite.SqliteStore, journal, blobs, blob_writer.FileBlobWriter)
    wrap_leases(doom, sqlite_lease.SqliteLeases)
    wrap(doom, blobs, "_publish", before="renaming")
    wrap(doom, blob_files, "sync_folder", before="renamed")


def wrap_redis(doom: Doom) -> None:
    """Have the cluster's store pass its points."""
    answer = redis_connection._answer

    def answered(wire: redis_connection.Wire) -> redis_connection.Reply:
        doom.inside()  # all is sent, whether it was done is not known
        return answer(wire)

    redis_connection._answer = answered
    journal, blobs = redis_journal.RedisJournal, redis_blobs.RedisBlobs
    wrap_store(doom, redis.RedisStore, journal, blobs, redis_blob_writer.RedisBlobWriter)
    wrap_leases(doom, redis_lease.RedisLeases)
    wrap(doom, redis_partials.Partial, "publish", inside="renaming", after="renamed")


def wrap_store(doom: Doom, store: Any, journal: Any, blobs: Any, writer: Any) -> None:
    """Have the classes of a store pass what every store has."""
    wrap(doom, journal, "entries", after="reading")
    wrap(doom, journal, "updates", after="reading")
    wrap(doom, blobs, "read", after="reading")
    wrap(doom, journal, "accept_update", inside="accepting", after="journalled")
    wrap(doom, journal, "set_run_state", before="finishing", inside="in_finish", after="finished")
    wrap(doom, store, "commit_round", before="committing", inside="in_commit", after="committed")
    wrap(doom, blobs, "put", before="publishing", after="published")
    wrap(doom, blobs, "delete", before="forgetting", after="forgot")
    wrap(doom, writer, "write", after="chunk")
    wrap(doom, writer, "commit", after="stored")


def wrap_leases(doom: Doom, leases: Any) -> None:
    wrap(doom, leases, "claim", before="claiming", inside="in_claim", after="claimed")
