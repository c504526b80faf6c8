"""Where the stores under test lie."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from redis_process import RedisProcess, redis_version

from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store


@dataclass(frozen=True)
class Place:
    url: str

    def open(self) -> Store:
        return open_store(self.url)


class SharedRedis:
    """One server for all tests of a session, started by the first that needs it."""

    def __init__(self) -> None:
        self._server: RedisProcess | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def place(self, folder: Path) -> Place:
        """An empty store on it; skips the test where there is no such server."""
        if self._server is None:
            redis_version()  # skips before there is anything to clean up
            self._folder = tempfile.TemporaryDirectory()
            server = RedisProcess(Path(self._folder.name))
            server.start()
            self._server = server
        return Place(self._server.url(uuid.uuid4().hex))

    def end(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


REDIS = SharedRedis()

PLACES: dict[str, Callable[[Path], Place]] = {
    "redis": REDIS.place,
    "sqlite": lambda folder: Place(f"sqlite:{folder / 'state'}"),
}
