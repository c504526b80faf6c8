"""Turns what the operating system says about a disk into the store's errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fedfleet.errors import FedFleetError, StoreFull, StoreUnavailable

# No space, over the quota, over the file size limit: three ways of having no room.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def disk_error(error: OSError) -> FedFleetError:
    """The error to raise for a failed call; paths go to the private detail only."""
    if error.errno in _NO_ROOM:
        return StoreFull(
            "the store's disk is full, nothing was written: make room, then try again",
            detail=str(error),
        )
    return StoreUnavailable(
        f"the store's state folder cannot be used: {error.strerror or type(error).__name__}",
        detail=str(error),
    )


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise StoreFull or StoreUnavailable for an OSError of the body."""
    try:
        yield
    except OSError as error:
        raise disk_error(error) from error
