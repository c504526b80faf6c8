"""Bytes that stay although no record names them yet, or none ever will.

Between storing bytes and committing the record that names them, the very same bytes may be those of
an old version that is retired: they would go, and the commit would find nothing. So whoever stores
holds first, and whoever deletes asks here. All that deletes is in this process, the store's one
owner, so its memory is enough: what a killed one held, the next stores again before it names it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class Holds:
    """Who holds what, by digest; safe from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        self._going: set[str] = set()  # what is being deleted

    def hold(self, holder: str, digests: Iterable[str]) -> None:
        """Have bytes stay that are there, or come; once ``settle`` has returned. Does not block."""
        with self._changed:
            for digest in digests:
                self._holders[digest].add(holder)

    def settle(self, digests: Collection[str]) -> None:
        """Wait for deletions that began before these were held."""
        with self._changed:
            self._changed.wait_for(lambda: self._going.isdisjoint(digests))

    def let_go(self, holder: str, digests: Iterable[str] | None = None) -> None:
        """Hold some no longer, or (None) nothing; no-op for what is not held. Does not block."""
        with self._changed:
            for digest in list(self._holders) if digests is None else digests:
                if digest in self._holders:
                    self._holders[digest].discard(holder)
                    if not self._holders[digest]:
                        del self._holders[digest]

    def held_by(self, holder: str) -> list[str]:
        """What somebody holds."""
        with self._changed:
            return sorted(digest for digest, held in self._holders.items() if holder in held)

    def is_held(self, digest: str) -> bool:
        """Whether anybody holds it now."""
        with self._changed:
            return digest in self._holders

    @contextmanager
    def deleting(self, digest: str) -> Iterator[bool]:
        """Whether nobody holds it: then the body may delete it, and who comes to hold it waits."""
        with self._changed:
            self._changed.wait_for(lambda: digest not in self._going)
            is_free = digest not in self._holders
            if is_free:
                self._going.add(digest)
        try:
            yield is_free
        finally:
            if is_free:
                with self._changed:
                    self._going.discard(digest)
                    self._changed.notify_all()
