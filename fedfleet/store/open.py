"""Opens the store that a setting names."""

from __future__ import annotations

from pathlib import Path

from fedfleet.errors import SettingInvalid
from fedfleet.store.protocols import Store
from fedfleet.store.sqlite import SqliteStore


def open_store(url: str) -> Store:
    """Open ``sqlite:PATH``, where PATH is the state folder; it is made where there is none.

    Raises:
        SettingInvalid: the URL names no store that is known here, or a file.
        StoreUnavailable, StoreFull: the folder cannot be used.
    """
    scheme, colon, path = url.partition(":")
    if scheme != "sqlite" or not colon or not path.strip():
        raise SettingInvalid(f"store {url!r}: must be sqlite:PATH, PATH being the state folder")
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:
        raise SettingInvalid(f"store {url!r}: {error}") from error
    if folder.exists() and not folder.is_dir():
        raise SettingInvalid(f"store {url!r}: PATH must be a folder, and this is a file")
    return SqliteStore(folder)
