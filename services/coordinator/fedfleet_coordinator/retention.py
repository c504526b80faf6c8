"""Lets go of old versions' bytes: as many versions stay as the setting says, and what is needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from fedfleet.errors import Conflict
from fedfleet.store.alias_history import AliasPaths
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet.store.version_pages import each_version
from fedfleet_coordinator.holds import Holds

logger = logging.getLogger(__name__)


class Retention:
    """Retires the oldest versions of a model after each of its commits.

    Each version is looked at once, and those that were needed then are looked at again: a commit
    costs as much after ten thousand rounds as after ten. What an alias names stays, and what a
    rollback of it goes to.

    Args:
        keep: how many of the newest versions stay; 0 keeps all.
        holds: a version whose bytes somebody holds stays until a later commit.
    """

    def __init__(self, store: Store, keep: int, holds: Holds) -> None:
        self._store = store
        self._keep = keep
        self._holds = holds
        self._paths = AliasPaths(store.registry)
        self._looked: dict[str, int] = {}  # the highest number that was looked at
        self._needed: dict[str, set[int]] = {}  # of those, the ones that stayed

    def after_commit(self, model: str, newest: int, needed: Collection[str] = ()) -> list[int]:
        """Retire what is beyond the newest versions, and return their numbers; blocks.

        What an earlier process left half done is done now. Call it again after a fault of the
        store: nothing is forgotten.

        Args:
            newest: number of the version that was committed.
            needed: digests of the blobs that the run which goes on lives on; they stay.

        Raises:
            StoreFull, StoreUnavailable, LeaseLost: the version that it stopped at stays for now.
        """
        if not self._keep:
            return []
        last = newest - self._keep
        waiting = self._needed.setdefault(model, set())
        looked = self._looked.get(model, 0)
        waiting.update(range(looked + 1, last + 1))
        self._looked[model] = max(looked, last)
        registry, retired = self._store.registry, []
        for number in sorted(waiting):
            version = registry.version(model, number)
            if version.digest in needed:
                continue
            if version.retired_at_s is not None and self._is_gone(version):
                waiting.remove(number)
                continue
            if _retire(self._store, self._holds, self._paths, version):
                waiting.remove(number)
                if version.retired_at_s is None:
                    retired.append(number)
        if retired:
            logger.info("versions_retired", extra={"model": model, "versions": retired})
        return retired

    def _is_gone(self, version: VersionRecord) -> bool:
        return self._store.blobs.size(version.digest) is None


def _retire(store: Store, holds: Holds, paths: AliasPaths, version: VersionRecord) -> bool:
    """Retire a version, unless its bytes are held or it is needed; whether it was; blocks."""
    with holds.deleting(version.digest) as is_free, suppress(Conflict):
        if is_free and not _is_way_back(paths, version):
            store.registry.retire(version.model, version.number, time.time())
            return True
    return False


def _is_way_back(paths: AliasPaths, version: VersionRecord) -> bool:
    return version.retired_at_s is None and version.number in paths.needed(version.model)


def retirable(store: Store, model: str, keep: int, holds: Holds) -> list[VersionRecord]:
    """The versions beyond the newest ones that nobody needs or holds, in order; blocks.

    With those that are retired and whose bytes are still there, as whoever retired them was killed
    before the end. Those of a run that goes on are left to ``Retention``, which knows what that
    run lives on.
    """
    registry = store.registry
    named = {alias.number for alias in registry.aliases(model).values()}
    named |= AliasPaths(registry).needed(model)
    going = {run.run_id for run in store.journal.runs() if not run.state.final}
    last = registry.newest_number(model) - keep
    open_ = [
        one
        for one in reversed(registry.versions(model))
        if one.run_id not in going and not holds.is_held(one.digest)
    ]
    left = {one.number for one in _left(store, open_)}
    return [
        version
        for version in open_
        if version.number in left
        or (version.retired_at_s is None and version.number <= last and version.number not in named)
    ]


def _left(store: Store, versions: Iterable[VersionRecord]) -> list[VersionRecord]:
    """The retired ones whose bytes are there, and are those of no version that is not retired."""
    registry, blobs = store.registry, store.blobs
    left = [
        version
        for version in versions
        if version.retired_at_s is not None and blobs.size(version.digest) is not None
    ]
    if not left:
        return []
    used = {
        version.digest
        for model in registry.models()
        for version in registry.versions(model)
        if version.retired_at_s is None
    }
    return [version for version in left if version.digest not in used]


def retire_all(
    store: Store, versions: Iterable[VersionRecord], holds: Holds
) -> list[VersionRecord]:
    """Retire them, but for those that are needed or held by now; returns those that are; blocks."""
    paths = AliasPaths(store.registry)
    return [
        version
        for version in versions
        if _retire(store, holds, paths, version)
        # The bytes of one that was retired before may be needed by something else by now.
        and (version.retired_at_s is None or store.blobs.size(version.digest) is None)
    ]


def freed_by(store: Store, versions: Sequence[VersionRecord]) -> int:
    """The bytes that would go with versions: not those that others share; blocks."""
    sizes = {version.digest: version.size_bytes for version in versions}
    going = {(version.model, version.number) for version in versions}
    for model in store.registry.models() if sizes else ():
        for version in each_version(store.registry, model):
            if version.retired_at_s is None and (model, version.number) not in going:
                sizes.pop(version.digest, None)
    return sum(sizes.values())


def gone_of(store: Store, versions: Iterable[VersionRecord]) -> int:
    """The bytes that went with versions which were retired just now; blocks."""
    sizes = {version.digest: version.size_bytes for version in versions}
    return sum(size for digest, size in sizes.items() if store.blobs.size(digest) is None)
