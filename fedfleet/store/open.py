"""Opens the store that a setting names."""

from __future__ import annotations

from pathlib import Path

from fedfleet.errors import SettingInvalid
from fedfleet.store.protocols import Store
from fedfleet.store.redis_url import SCHEMES, parse_redis_url, without_secrets
from fedfleet.store.sqlite import SqliteStore


def open_store(url: str) -> Store:
    """Open ``sqlite:PATH``, PATH being the state folder, which is made where there is none; or a
    Redis server, see ``redis_url.py``.

    Raises:
        SettingInvalid: the URL names no store that is known here, or a file; or a server that may
            lose what it has acknowledged.
        StoreUnavailable, StoreFull: the folder or the server cannot be used.
    """
    scheme, colon, path = url.partition(":")
    if colon and scheme in SCHEMES:
        # The library takes a fifth of a second to import, and only services have it.
        from fedfleet.store.redis import RedisStore

        return RedisStore(parse_redis_url(url))
    if scheme != "sqlite" or not colon or not path.strip():
        raise SettingInvalid(
            f"store {without_secrets(url)!r}: must be sqlite:PATH, PATH being the state folder, or "
            "redis://HOST:PORT/DB"
        )
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:
        raise SettingInvalid(f"store {url!r}: {error}") from error
    if folder.exists() and not folder.is_dir():
        raise SettingInvalid(f"store {url!r}: PATH must be a folder, and this is a file")
    return SqliteStore(folder)
