"""A model's versions one after the other, read from the store in pieces."""

from __future__ import annotations

from collections.abc import Iterator

from fedfleet.store.protocols import Registry, VersionRecord

AT_ONCE = 100


def each_version(
    registry: Registry, model: str, before: int | None = None, limit: int | None = None
) -> Iterator[VersionRecord]:
    """Yield what ``Registry.versions`` returns, holding no more than a piece of it in memory.

    What is stored meanwhile is not among them.
    """
    left = limit
    while left is None or left > 0:
        asked = AT_ONCE if left is None else min(left, AT_ONCE)
        page = registry.versions(model, before, asked)
        yield from page
        if len(page) < asked:
            return
        before = page[-1].number
        left = None if left is None else left - len(page)
