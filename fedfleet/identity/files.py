"""Files of keys and certificates: written whole or not at all, and secret where they must be."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedfleet.errors import CertificateInvalid, NotFound, StoreFull, StoreUnavailable

_PARTIAL = ".partial"
# No key, certificate or chain of certificates is larger.
MAX_BYTES = 64 << 10


def write_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read; durable when this returns.

    Raises:
        StoreFull: no room.
        StoreUnavailable: the folder is not there or may not be written to.
    """
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write a file that all may read; raises as ``write_private``."""
    _write(path, data, 0o644)


def read_private(path: Path) -> bytes:
    """The bytes of a file that holds a secret.

    Raises:
        NotFound: there is no such file.
        CertificateInvalid: others may read or change it, or it is no file of a key.
        StoreUnavailable: it cannot be read.
    """
    return _read(path, is_secret=True)


def read_public(path: Path) -> bytes:
    """The bytes of a file; raises as ``read_private``, but for who may read it."""
    return _read(path, is_secret=False)


def is_there(path: Path) -> bool:
    """Whether there is such a file; raises StoreUnavailable where that cannot be seen."""
    with file_errors(path):
        try:
            path.stat()
        except FileNotFoundError:
            return False
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only one who makes files in a folder, which is made where it is missing.

    Waits for whoever else does; the system lets go of what a killed process held. What such a
    process has left half written is removed. Not to be nested for one folder.

    Raises:
        StoreFull: no room.
        StoreUnavailable: the folder cannot be made or written to.
        CertificateInvalid: everybody may write to the folder.
    """
    with file_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & stat.S_IWOTH:
            raise CertificateInvalid(f"{folder}: everybody may write to it; chmod it to 700")
        file = (folder / "lock").open("ab")
    with file:
        with file_errors(folder):
            fcntl.flock(file, fcntl.LOCK_EX)
            for partial in folder.glob(f".*{_PARTIAL}"):
                partial.unlink(missing_ok=True)
        yield


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Raise StoreFull or StoreUnavailable, in one line, for an OSError of the body."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cls = StoreFull if is_full else StoreUnavailable
        raise cls(f"{path}: {error.strerror}") from error


def _write(path: Path, data: bytes, mode: int) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_PARTIAL}")
    with file_errors(path):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; as ``store.durable``, which lies above this box."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, *, is_secret: bool) -> bytes:
    with file_errors(path):
        try:
            # A pipe in its place must not hold us up.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFound(f"there is no file {path}") from None
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise CertificateInvalid(f"{path}: is not a file")
            if is_secret:
                _check_secret(path, about)
            data = os.read(descriptor, MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise CertificateInvalid(f"{path}: is too large for a key or a certificate")
    return data


def _check_secret(path: Path, about: os.stat_result) -> None:
    """The rule of PostgreSQL: root may let our group read a key of its own."""
    is_roots = about.st_uid == 0 != os.geteuid()
    if about.st_mode & (0o037 if is_roots else 0o077):
        raise CertificateInvalid(
            f"{path}: others may read or change this key (mode {about.st_mode & 0o777:o}); "
            f"chmod it to {'640' if is_roots else '600'}"
        )
