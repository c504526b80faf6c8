"""Versions that callers ask for by number or alias: loaded when they are, the last few kept."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from fedfleet.errors import (
    FedFleetError,
    InvalidInput,
    StoreUnavailable,
    Unavailable,
    VersionInvalid,
    VersionRetired,
)
from fedfleet.store.protocols import Registry, VersionRecord, resolve
from fedfleet_inference_api.follower import Load
from fedfleet_inference_api.servable import Servable

# What the registry said is believed for so long, and no longer.
REMEMBERED_S = 1.0
MOST_REMEMBERED = 256
# A version that could not be loaded is not tried again for so long.
FAILED_S = 10.0
# Different versions whose load is under way or waits for it.
MOST_LOADING = 4

Key = tuple[str, str]  # a model, and the number or the alias in it


@dataclass(frozen=True)
class _Failure:
    """Why a version was not loaded, of which each caller gets an error of its own.

    An error that several raise would grow with each of them, and hold on to what they held.
    """

    kind: type[FedFleetError]
    message: str

    def error(self) -> FedFleetError:
        return self.kind(self.message)


@dataclass(frozen=True)
class _Known:
    """What the registry said of a number or an alias."""

    record: VersionRecord
    until_s: float


class Pinned:
    """Used on the event loop; the registry and the loads have threads.

    Args:
        at_hand: the version where it is in memory for another reason.
        most: versions that are kept beside those; 0: none is loaded on demand.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        registry: Registry,
        load: Load,
        at_hand: Callable[[VersionRecord], Servable | None],
        most: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._load = load
        self._at_hand = at_hand
        self._most = most
        self._clock = clock
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._kept: OrderedDict[str, Servable] = OrderedDict()  # by title: model and number
        self._loading: dict[str, Future[Servable | _Failure]] = {}
        self._failed: OrderedDict[str, tuple[_Failure, float]] = OrderedDict()
        self._loader = ThreadPoolExecutor(1, "pinned-loader")

    async def record(self, model: str, name: str) -> VersionRecord:
        """What a number or an alias of a model names.

        Raises:
            NotFound: neither.
            StoreUnavailable: the registry cannot be asked, and was not a moment ago.
        """
        key = (model, name)
        known = self._known.get(key)
        if known is None or self._clock() >= known.until_s:
            until_s = self._clock() + REMEMBERED_S
            found = await asyncio.to_thread(resolve, self._registry, model, name)
            known = self._known[key] = _Known(found, until_s)
            if len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known.record

    async def servable(self, model: str, name: str) -> Servable:
        """The version that a number or an alias names, ready to answer.

        Raises:
            NotFound: neither.
            VersionRetired: its bytes are kept no longer.
            VersionInvalid: it cannot be served; says why.
            InvalidInput: versions are not loaded on demand here.
            Unavailable: too many others are being loaded.
        """
        record = await self.record(model, name)
        if record.retired_at_s is not None:
            raise VersionRetired(
                f"{model} version {record.number} is retired: its bytes are kept no longer"
            )
        title = _title(record)
        found = self._at_hand(record) or self._kept.get(title)
        if found is not None:
            if title in self._kept:
                self._kept.move_to_end(title)
            return found
        if not self._most:
            raise InvalidInput(f"{title} is not served, and this service loads none on demand")
        return await self._loaded(title, record)

    def is_here(self, record: VersionRecord) -> bool:
        """Whether a version is in memory."""
        return self._at_hand(record) is not None or _title(record) in self._kept

    async def _loaded(self, title: str, record: VersionRecord) -> Servable:
        """Load, or wait for whoever loads the same one; a caller that leaves stops nobody's."""
        failed = self._failed.get(title)
        if failed is not None and self._clock() < failed[1]:
            raise failed[0].error()
        loading = self._loading.get(title)
        if loading is None:
            if len(self._loading) >= MOST_LOADING:
                raise Unavailable(f"{MOST_LOADING} other versions are being loaded: try again")
            loading = self._loader.submit(self._attempt, title, record)
            self._loading[title] = loading
            loop = asyncio.get_running_loop()
            loading.add_done_callback(
                lambda done: loop.call_soon_threadsafe(self._finish, title, done)
            )
        loaded = await asyncio.shield(asyncio.wrap_future(loading))
        if isinstance(loaded, _Failure):
            raise loaded.error()
        return loaded

    def _attempt(self, title: str, record: VersionRecord) -> Servable | _Failure:
        """Load, on the loader's thread."""
        try:
            return self._load(record, "")
        except StoreUnavailable as error:
            return _Failure(type(error), error.message)
        except FedFleetError as error:
            kind = type(error) if isinstance(error, VersionInvalid) else VersionInvalid
            return _Failure(kind, f"{title} cannot be served: {error.code}: {error.message}")

    def _finish(self, title: str, done: Future[Servable | _Failure]) -> None:
        """Keep what was loaded, or why it was not."""
        self._loading.pop(title, None)
        if done.cancelled() or done.exception() is not None:
            return
        loaded = done.result()
        if not isinstance(loaded, _Failure):
            self._kept[title] = loaded
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        elif not issubclass(loaded.kind, StoreUnavailable):
            self._failed[title] = (loaded, self._clock() + FAILED_S)
            if len(self._failed) > MOST_REMEMBERED:
                self._failed.popitem(last=False)

    def close(self) -> None:
        """Wait for the load that runs, drop those that wait."""
        self._loader.shutdown(cancel_futures=True)


def _title(record: VersionRecord) -> str:
    return f"{record.model} version {record.number}"
