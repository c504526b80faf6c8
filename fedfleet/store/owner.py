"""Keeps a second process out of a state folder that has one owner."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedfleet.errors import StateInUse
from fedfleet.store.disk_errors import disk_errors


@contextmanager
def hold_folder(folder: Path, what: str) -> Iterator[None]:
    """Own a folder while the body runs; the system lets go when the process dies.

    Args:
        what: names the folder in the error, for example ``the worker's state folder``.

    Raises:
        StateInUse: another process owns it.
    """
    with disk_errors():
        file = (folder / "owner.lock").open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateInUse(
                f"{what} is in use by another process: stop that one, or name another folder"
            ) from error
        yield
