"""Receives one blob into Redis, from where an earlier writer left off."""

from __future__ import annotations

import hashlib
import threading

from fedfleet.errors import ChecksumMismatch, StoreUnavailable, TransferInvalid
from fedfleet.store.redis_partials import Partial, taken_over


class RedisBlobWriter:
    """Keeps the promises of ``BlobWriter`` for a blob that is not stored yet.

    When the server goes away, how much of the blob it has is not known here any more: the writer
    closes, and a later one asks.

    Args:
        partial: open.
    """

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self._lock = threading.Lock()
        self._is_closed = False
        # Bytes of an earlier writer are hashed once, at the end, not at each of many resumptions.
        self._hash = hashlib.sha256() if partial.offset_bytes == 0 else None

    @property
    def offset_bytes(self) -> int:
        return self._partial.offset_bytes

    def write(self, data: bytes) -> None:
        with self._lock:
            self._check_open()
            partial = self._partial
            if partial.offset_bytes + len(data) > partial.size_bytes:
                raise _wrong_size(partial.offset_bytes + len(data), partial.size_bytes)
            if not data:
                return
            try:
                partial.append(data)
            except (StoreUnavailable, TransferInvalid):
                self._is_closed = True
                raise
            if self._hash is not None:
                self._hash.update(data)

    def commit(self) -> None:
        with self._lock:
            self._check_open()
            partial = self._partial
            if partial.offset_bytes < partial.size_bytes:
                raise _wrong_size(partial.offset_bytes, partial.size_bytes)
            self._is_closed = True
            found = self._hash_of_all()
            if found != partial.digest:
                partial.drop()
                raise ChecksumMismatch(
                    f"the bytes have SHA-256 {found}, {partial.digest} was announced: send again"
                )
            partial.publish()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise taken_over()

    def _hash_of_all(self) -> str:
        if self._hash is not None:
            return self._hash.hexdigest()
        found = hashlib.sha256()
        for piece in self._partial.pieces():
            found.update(piece)
        return found.hexdigest()


def _wrong_size(came: int, announced: int) -> TransferInvalid:
    return TransferInvalid(f"{came} bytes came, {announced} were announced")
