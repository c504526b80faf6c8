"""The store as one holder has it: what it puts stays until it deletes it, or a version has it."""

from __future__ import annotations

import hashlib
import threading
from contextlib import AbstractContextManager
from types import TracebackType

from fedfleet.store.lease import LASTS_S, Lease
from fedfleet.store.protocols import Blobs, BlobWriter, RoundCommit, Store, VersionRecord
from fedfleet_coordinator.holds import Holds


class HeldBlobs:
    """Keeps the promises of ``Blobs``, but for what others hold: that is not deleted.

    Args:
        holder: in whose name bytes are held.
    """

    def __init__(self, blobs: Blobs, holds: Holds, holder: str) -> None:
        self._blobs = blobs
        self._holds = holds
        self._holder = holder

    def put(self, data: bytes) -> str:
        self._hold(hashlib.sha256(data).hexdigest())
        return self._blobs.put(data)

    def writer(self, digest: str, size_bytes: int, key: str) -> BlobWriter:
        self._hold(digest)
        return self._blobs.writer(digest, size_bytes, key)

    def size(self, digest: str) -> int | None:
        return self._blobs.size(digest)

    def read(self, digest: str, offset_bytes: int = 0, length: int | None = None) -> bytes:
        return self._blobs.read(digest, offset_bytes, length)

    def view(self, digest: str) -> memoryview:
        return self._blobs.view(digest)

    def delete(self, digest: str) -> None:
        """Let go of it, and remove it where nobody else holds it. Raises Conflict: it is needed."""
        self._holds.let_go(self._holder, [digest])
        with self._holds.deleting(digest) as is_free:
            if is_free:
                self._blobs.delete(digest)

    def _hold(self, digest: str) -> None:
        # Before anything is stored: nobody is to delete what is there already.
        self._holds.hold(self._holder, [digest])
        self._holds.settle([digest])


class HeldStore:
    """Keeps the promises of ``Store``, with blobs that are held."""

    def __init__(self, store: Store, holds: Holds, holder: str) -> None:
        self._store = store
        self._holds = holds
        self._holder = holder
        self.blobs = HeldBlobs(store.blobs, holds, holder)
        self.journal = store.journal
        self.registry = store.registry
        self.access = store.access
        self.audit = store.audit

    def commit_round(self, commit: RoundCommit) -> VersionRecord:
        version = self._store.commit_round(commit)
        self._holds.let_go(self._holder, [version.digest])  # its record needs it now
        return version

    def own(
        self,
        holder: str = "",
        *,
        lasts_s: float = LASTS_S,
        wait_s: float | None = 0.0,
        given_up: threading.Event | None = None,
    ) -> AbstractContextManager[Lease]:
        return self._store.own(holder, lasts_s=lasts_s, wait_s=wait_s, given_up=given_up)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> HeldStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
