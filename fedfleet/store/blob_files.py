"""Blobs as files of a state folder, named by their SHA-256."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from weakref import WeakValueDictionary

from fedfleet.errors import NotFound, StoreUnavailable, TransferInvalid
from fedfleet.store.blob_writer import FileBlobWriter, HeldBlobWriter, write_all
from fedfleet.store.disk_errors import disk_errors
from fedfleet.store.durable import sync_folder
from fedfleet.store.protocols import BlobWriter

_DIGEST = re.compile("[0-9a-f]{64}")
# A partial blob that nobody has touched for a day is of an upload that will not be resumed.
STALE_S = 24 * 3600.0


class BlobFiles:
    """Keeps the promises of ``Blobs`` in ``blobs/sha256/ab/`` and ``partial/`` of a state folder.

    A file appears in ``blobs/`` whole: it is written and synced in ``partial/``, renamed, and the
    folder that holds the name is synced.

    Args:
        deleting: keeps others from referring to this digest while the body runs, or raises.
    """

    def __init__(
        self, folder: Path, deleting: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._blobs = folder / "blobs" / "sha256"
        self._partial = folder / "partial"
        self._deleting = deleting
        self._folders_lock = threading.Lock()
        self._durable_folders: set[Path] = set()  # folders whose own name is on the disk for sure
        self._writers_lock = threading.Lock()
        # At most one writer may append to a partial file.
        self._writers: WeakValueDictionary[Path, FileBlobWriter] = WeakValueDictionary()
        with disk_errors():
            for path in (self._blobs.parent, self._blobs, self._partial):
                self._make_folder(path)

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        if self.size(digest) is not None:
            self._sync(digest)
            return digest
        partial = self._partial / f"{digest}.{uuid.uuid4().hex}"
        with disk_errors():
            try:
                with io.FileIO(partial, "x") as file:
                    write_all(file, data)
                    os.fsync(file.fileno())
                self._publish(partial, digest)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        return digest

    def writer(self, digest: str, size_bytes: int, key: str) -> BlobWriter:
        if not _DIGEST.fullmatch(digest) or size_bytes < 0:
            raise TransferInvalid(
                f"digest {digest[:80]!r}, size {size_bytes}: must be 64 hexadecimal digits "
                "in lower case, and 0 or more"
            )
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        partial = self._partial / f"{digest}.{name}"
        with self._writers_lock:
            earlier = self._writers.pop(partial, None)
            if earlier is not None:
                earlier.close()
            self._drop_others(partial)
            held = self.size(digest)
            if held is None:
                writer = FileBlobWriter(partial, digest, size_bytes, self._publish)
                self._writers[partial] = writer
                return writer
        if held != size_bytes:
            raise TransferInvalid(f"blob {digest} has {held} bytes, {size_bytes} were announced")
        return HeldBlobWriter(digest, size_bytes, self._sync)

    def size(self, digest: str) -> int | None:
        if not _DIGEST.fullmatch(digest):
            return None
        with disk_errors():
            try:
                return self._path(digest).stat().st_size
            except FileNotFoundError:
                return None

    def read(self, digest: str, offset_bytes: int = 0, length: int | None = None) -> bytes:
        size = self.size(digest)
        if size is None:
            raise _no_blob(digest)
        start = min(offset_bytes, size)
        wanted = size - start if length is None else min(length, size - start)
        with disk_errors():
            try:
                file = self._path(digest).open("rb")
            except FileNotFoundError:
                raise _no_blob(digest) from None
            with file:
                file.seek(start)
                return file.read(wanted)

    def view(self, digest: str) -> memoryview:
        if self.size(digest) == 0:  # which cannot be mapped
            return memoryview(b"")
        with disk_errors():
            try:
                file = self._path(digest).open("rb")
            except FileNotFoundError:
                raise _no_blob(digest) from None
            with file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def delete(self, digest: str) -> None:
        if self.size(digest) is not None:
            with self._deleting(digest), disk_errors():
                self._path(digest).unlink(missing_ok=True)

    def _drop_others(self, kept: Path) -> None:
        """Remove what the same key began under other digests: whoever begins without end, and ends
        nothing, fills no disk.
        """
        with disk_errors():
            for path in self._partial.glob(f"*{kept.suffix}"):
                if path != kept:
                    other = self._writers.pop(path, None)
                    if other is not None:
                        other.close()
                    path.unlink(missing_ok=True)
        self.drop_stale_partials(time.time())

    def drop_stale_partials(self, now_s: float) -> None:
        """Remove what uploads that were given up left behind."""
        with disk_errors():
            for path in self._partial.iterdir():
                try:
                    if path.stat().st_mtime < now_s - STALE_S:
                        path.unlink()
                except FileNotFoundError:
                    pass  # committed meanwhile

    def _path(self, digest: str) -> Path:
        return self._blobs / digest[:2] / digest

    def _publish(self, partial: Path, digest: str) -> None:
        path = self._path(digest)
        self._make_folder(path.parent)
        partial.replace(path)
        sync_folder(path.parent)

    def _sync(self, digest: str) -> None:
        # Whoever stored it may have been killed between the rename and the folder's sync.
        if self.size(digest) is None:
            raise StoreUnavailable(f"blob {digest} was deleted meanwhile: send it again")
        with disk_errors():
            path = self._path(digest)
            self._make_folder(path.parent)
            sync_folder(path.parent)

    def _make_folder(self, path: Path) -> None:
        with self._folders_lock:
            if path not in self._durable_folders:
                path.mkdir(mode=0o700, exist_ok=True)
                sync_folder(path.parent)
                self._durable_folders.add(path)


def _no_blob(digest: str) -> NotFound:
    return NotFound(f"there is no blob {digest[:80]!r}")
