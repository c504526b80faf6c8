"""Connections to a Redis server: what is written over them happens once, or never.

A write whose answer was lost is sent again under the same number of its lane, and its script does
it once (``redis_scripts.py``). When the server stays away the write is given up, and nobody knows
whether it happened. Before anything else is asked of the server from here, the lane's next number
is taken there: from then on that write either happened already or never will, even if its bytes
still lay in a buffer of a server that stood still. So whoever reads again what there is, as
``protocols.py`` says, reads what stays.
"""

from __future__ import annotations

import queue
import random
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from redis.exceptions import NoScriptError, RedisError, ResponseError, TimeoutError

from fedfleet.errors import LeaseLost, StoreUnavailable
from fedfleet.store.redis_connection import (
    ANSWER_S,
    Argument,
    Command,
    Lane,
    Reply,
    connection_to,
    encoded,
    exchange,
)
from fedfleet.store.redis_errors import passes, store_error
from fedfleet.store.redis_keys import Keys
from fedfleet.store.redis_scripts import LANE_MS, VOID, Script
from fedfleet.store.redis_url import RedisAddress

# How long a call tries before it says that the server is away.
TRIES_S = 2.0
# With WAITAOF an answer waits for the server's fsync, which comes every second, or a bit later.
SYNC_S = 2.0
LANES = 16
# How long a call waits for one of the lanes.
LANE_S = 10.0


class _NotSynced(TimeoutError):
    """The server has not written to its disk in time."""


class RedisServer:
    """What the faces of a store talk to; safe from several threads.

    Attributes:
        fence: the lease's token that every write needs; empty where the store was not claimed.
        syncs: whether the server is asked after each write to have it on its disk.
    """

    def __init__(self, address: RedisAddress) -> None:
        self.fence = ""
        self.syncs = False
        self.keys = Keys(address.namespace)
        self._password = address.password
        self._closed = threading.Event()
        self._free: queue.LifoQueue[Lane] = queue.LifoQueue()
        self._doubtful: list[Lane] = []
        self._settling = threading.Lock()
        self._failed_s = 0.0  # when settling failed last
        name = uuid.uuid4().hex
        for number in range(LANES):
            key = encoded(self.keys.lane(f"{name}.{number}"))
            self._free.put(Lane(connection_to(address), key))

    def read(self, *commands: Sequence[Argument]) -> list[Reply]:
        """The answers to commands that change nothing, each by itself.

        Raises:
            StoreUnavailable: the server is away, or refuses.
            InvalidInput: an argument is no text that can be encoded.
        """
        words = [[encoded(word) for word in command] for command in commands]
        with self._lane() as lane:
            return self._insist(lane, words)

    def ask(self, *command: str) -> Reply:
        """The answer to one command; None where the server does not know it or allow it."""
        with self._lane() as lane:
            try:
                return self._insist(lane, [command])[0]
            except ResponseError as error:
                if passes(error):
                    raise
                return None

    def write(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument] = (),
        *,
        fence: str | None = None,
    ) -> list[bytes]:
        """Run a script and return what it says, once that is on the server's disk.

        Args:
            keys, args: those that the script names, and more.
            fence: the token that this write needs instead of the store's.

        Raises:
            LeaseLost: the store was claimed here, and by another meanwhile.
            StoreFull, StoreUnavailable: see ``protocols.py``.
            InvalidInput: an argument cannot be stored.
        """
        own_keys = [encoded(key) for key in keys]
        own_args = [encoded(arg) for arg in args]
        with self._lane() as lane:
            token = self.fence if fence is None else fence
            reply = self._run(lane, script, own_keys, own_args, token)
        if reply[0] == b"lost":
            raise LeaseLost(
                "another coordinator owns the store now, nothing was written: this one must stop"
            )
        return reply

    def sync_writes(self) -> None:
        """Have each write wait for the server's fsync from now on; call before others call."""
        self.syncs = True
        for lane in list(self._free.queue):
            lane.wire.disconnect()
            lane.wire.socket_timeout = ANSWER_S + SYNC_S

    def close(self) -> None:
        """Let go of the connections; safe to call twice."""
        self._closed.set()
        while True:
            try:
                self._free.get_nowait().wire.disconnect()
            except queue.Empty:
                break
        for lane in list(self._doubtful):
            lane.wire.disconnect()

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        """One that nobody else uses while the body runs; what redis-py raises becomes ours."""
        self._check_open()
        lane = self._take_lane()
        try:
            self._check_open()
            yield lane
        except RedisError as error:
            # Without its cause, whose text nobody has looked through.
            raise store_error(error, self._password, unsure=lane.in_doubt) from None
        finally:
            if self._closed.is_set():
                lane.wire.disconnect()
            if lane.in_doubt:
                self._doubtful.append(lane)
            else:
                self._free.put(lane)

    def _take_lane(self) -> Lane:
        try:
            self._settle()
            return self._free.get(timeout=LANE_S)
        except RedisError as error:
            raise store_error(error, self._password) from None
        except queue.Empty:
            raise StoreUnavailable("too many calls wait for the store's Redis") from None

    def _settle(self) -> None:
        """Make sure that no write which was given up can happen from now on."""
        if not self._doubtful:
            return
        came_s = time.monotonic()
        with self._settling:
            if self._failed_s > came_s:  # while this call waited its turn, another tried
                raise StoreUnavailable("the store's Redis cannot be reached: try again")
            try:
                while self._doubtful:
                    lane = self._doubtful[0]
                    self._run(lane, VOID, [], [], "")
                    self._doubtful.remove(lane)
                    self._free.put(lane)
            except RedisError:
                self._failed_s = time.monotonic()
                raise

    def _run(
        self, lane: Lane, script: Script, keys: list[bytes], args: list[bytes], fence: str
    ) -> list[bytes]:
        lane.number += 1
        own = [encoded(fence), encoded(lane.number), encoded(LANE_MS)]
        lease = encoded(self.keys.lease)
        arguments = script.arguments([lease, lane.key, *keys], [*own, *args])
        reply: list[bytes] = self._insist(lane, [("EVALSHA", script.sha, *arguments)], script)[0]
        lane.in_doubt = False  # what may still come of it has this number, or a lower one
        assert reply[0] != b"stale", "two writers share a lane"
        return reply

    def _insist(
        self, lane: Lane, commands: Sequence[Command], script: Script | None = None
    ) -> list[Reply]:
        """Send commands until they are answered, for ``TRIES_S`` at most."""
        until_s = time.monotonic() + (SYNC_S if self.syncs else 0.0) + TRIES_S
        wait_s = 0.02
        while True:
            try:
                return self._send(lane, commands, script)
            except RedisError as error:
                # A refusal is an answer; anything else leaves open what became of a write.
                is_open = script is not None and not isinstance(error, ResponseError)
                lane.in_doubt = lane.in_doubt or is_open
                if not passes(error):
                    raise
                lane.wire.disconnect()
                if time.monotonic() + wait_s > until_s:
                    raise
            self._closed.wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreading load
            self._check_open()
            wait_s = min(0.25, 2 * wait_s)

    def _send(self, lane: Lane, commands: Sequence[Command], script: Script | None) -> list[Reply]:
        syncs = self.syncs and script is not None
        sync = [("WAITAOF", "1", "0", str(int(1000 * SYNC_S)))] if syncs else []
        answers = exchange(lane.wire, [*commands, *sync])
        if script is not None and isinstance(answers[0], NoScriptError):
            # A server that was restarted has forgotten it.
            whole = ("EVAL", script.text, *commands[0][2:])
            answers = exchange(lane.wire, [whole, *sync])
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer
        if syncs and answers.pop()[0] < 1:
            raise _NotSynced("the server's disk is too slow")
        return answers

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise StoreUnavailable("the store is closed")
