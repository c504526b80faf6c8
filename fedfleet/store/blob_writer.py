"""Receives one blob into a file, from where an earlier writer left off."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

from fedfleet.errors import ChecksumMismatch, TransferInvalid
from fedfleet.store.disk_errors import disk_errors


class FileBlobWriter:
    """Keeps the promises of ``BlobWriter`` for a blob that is not stored yet.

    Args:
        partial: the file that holds what came so far; made where there is none.
        publish: makes the whole, synced partial file the blob of the digest.
    """

    def __init__(
        self, partial: Path, digest: str, size_bytes: int, publish: Callable[[Path, str], None]
    ) -> None:
        self._partial = partial
        self._digest = digest
        self._size_bytes = size_bytes
        self._publish = publish
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        with disk_errors():
            file = io.FileIO(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
            self._offset_bytes = file.seek(0, os.SEEK_END)
            if self._offset_bytes > size_bytes:  # kept for a size that was a lie
                file.truncate(0)
                self._offset_bytes = file.seek(0)
        self._file = file
        # Bytes of an earlier writer are hashed once, at the end, not at each of many resumptions.
        self._hash = hashlib.sha256() if self._offset_bytes == 0 else None

    @property
    def offset_bytes(self) -> int:
        return self._offset_bytes

    def write(self, data: bytes) -> None:
        with self._lock, disk_errors():
            file = self._held()
            if self._offset_bytes + len(data) > self._size_bytes:
                raise _wrong_size(self._offset_bytes + len(data), self._size_bytes)
            try:
                write_all(file, data)
            except BaseException:
                file.truncate(self._offset_bytes)
                file.seek(self._offset_bytes)
                raise
            self._offset_bytes += len(data)
            if self._hash is not None:
                self._hash.update(data)

    def commit(self) -> None:
        with self._lock, disk_errors():
            file = self._held()
            if self._offset_bytes < self._size_bytes:
                raise _wrong_size(self._offset_bytes, self._size_bytes)
            try:
                found = self._hash.hexdigest() if self._hash else _hash_file(file)
                if found != self._digest:
                    raise ChecksumMismatch(
                        f"the bytes have SHA-256 {found}, {self._digest} was announced: send again"
                    )
                os.fsync(file.fileno())
                self._publish(self._partial, self._digest)
            except BaseException:
                # Wrong bytes, or bytes that a failed fsync may have lost: never to be resumed.
                self._partial.unlink(missing_ok=True)
                raise
            finally:
                self._close()

    def close(self) -> None:
        with self._lock:
            self._close()

    def __del__(self) -> None:
        # Whoever was cancelled while it was being opened never got hold of it.
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _held(self) -> io.FileIO:
        if self._file is None:
            raise TransferInvalid("this transfer was closed, or another of the same blob took over")
        return self._file


class HeldBlobWriter:
    """Keeps the promises of ``BlobWriter`` for a blob that is stored: there is nothing to send.

    Args:
        sync: makes sure that the blob will survive a power cut.
    """

    def __init__(self, digest: str, size_bytes: int, sync: Callable[[str], None]) -> None:
        self._digest = digest
        self._size_bytes = size_bytes
        self._sync = sync

    @property
    def offset_bytes(self) -> int:
        return self._size_bytes

    def write(self, data: bytes) -> None:
        if data:
            raise _wrong_size(self._size_bytes + len(data), self._size_bytes)

    def commit(self) -> None:
        self._sync(self._digest)

    def close(self) -> None:
        """Nothing is held."""


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write every byte; one call of the operating system may take fewer."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _wrong_size(came: int, announced: int) -> TransferInvalid:
    return TransferInvalid(f"{came} bytes came, {announced} were announced")


def _hash_file(file: io.FileIO) -> str:
    hasher = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        hasher.update(block)
    return hasher.hexdigest()
