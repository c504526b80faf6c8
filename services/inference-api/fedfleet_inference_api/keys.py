"""Checks a caller's key against the store, and remembers for a moment what the store said."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from fedfleet.errors import NotFound, Unauthenticated
from fedfleet.identity.tokens import matches, split_key
from fedfleet.store.access import Access, KeyRecord

# A revoked key is good for no longer than this.
REMEMBERED_S = 1.0
MOST_REMEMBERED = 4096

_NO_HASH = "0" * 64


@dataclass(frozen=True)
class _Answer:
    """What the store said of an id: its record, or None where there is no such key."""

    record: KeyRecord | None
    until_s: float


class KeyRing:
    """The keys of a store. Used on the event loop; the store is asked on a thread.

    Args:
        clock: seconds that only grow.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        access: Access,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._access = access
        self._clock = clock
        self._now = now
        self._answers: OrderedDict[str, _Answer] = OrderedDict()

    async def check(self, text: str) -> KeyRecord:
        """The record of a key.

        Raises:
            Unauthenticated: not a key, or none that is known, or one that has ended.
            StoreUnavailable: the store cannot be asked, and was not a moment ago.
        """
        key_id, secret = split_key(text)
        record = await self._record(key_id)
        # An unknown id takes as long as a wrong secret.
        is_right = matches(secret, record.secret_hash if record else _NO_HASH)
        if record is None or not is_right:
            raise Unauthenticated("this key is not known here: it was mistyped, or revoked")
        if 0 < record.expires_at_s <= self._now():
            raise Unauthenticated("this key has ended: ask an operator for a new one")
        return record

    async def _record(self, key_id: str) -> KeyRecord | None:
        known = self._answers.get(key_id)
        if known is not None and self._clock() < known.until_s:
            self._answers.move_to_end(key_id)
            return known.record
        until_s = self._clock() + REMEMBERED_S  # counted from the question, not from the answer
        record = await asyncio.to_thread(self._look, key_id)
        self._answers[key_id] = _Answer(record, until_s)
        self._answers.move_to_end(key_id)
        if len(self._answers) > MOST_REMEMBERED:
            self._answers.popitem(last=False)
        return record

    def _look(self, key_id: str) -> KeyRecord | None:
        try:
            return self._access.key(key_id)
        except NotFound:
            return None
