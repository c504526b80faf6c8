"""What the registry says that a follower should serve, and what else it might."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from fedfleet.store.alias_history import LATEST, PREVIOUS, version_before
from fedfleet.store.protocols import Registry, VersionRecord
from fedfleet.store.version_pages import each_version
from fedfleet_inference_api.following import Target

EVENTS_AT_ONCE = 1000
# Older versions that are tried where nothing is served and the newest one is refused.
MOST_OLDER = 5


class AliasReader:
    """Reads what one alias points at; used by the follower's thread alone.

    Args:
        model: whose alias; empty for the one whose registry entry changed last.
    """

    def __init__(self, registry: Registry, model: str, alias: str) -> None:
        self._registry = registry
        self._model = model
        self._alias = alias
        self._last_event_id = 0
        self._recent: list[str] = []  # models by their last event, newest last

    def has_news(self) -> bool:
        """Whether anything happened in the registry since it was asked last."""
        before = self._last_event_id
        while events := self._registry.events(self._last_event_id, EVENTS_AT_ONCE):
            for event in events:
                if event.model in self._recent:
                    self._recent.remove(event.model)
                self._recent.append(event.model)
            self._last_event_id = events[-1].event_id
        return self._last_event_id != before

    def target(self) -> Target | None:
        """The version that should be served, None while the alias does not exist."""
        for name in [self._model] if self._model else reversed(self._recent):
            target = self.named(name, self._alias)
            if target is not None:
                return target
        return None

    def named(self, model: str, name: str) -> Target | None:
        """What an alias of a model points at."""
        alias = self._registry.aliases(model).get(name)
        if alias is None:
            return None
        return Target(self._registry.version(model, alias.number), alias.revision)

    def older(
        self, target: Target, is_left: Callable[[VersionRecord], bool]
    ) -> Iterator[VersionRecord]:
        """What the alias named before, what ``previous`` points at, then older versions, newest
        first.

        Args:
            is_left: which versions are passed over.
        """
        newest, alias = target.record, self._alias
        previous = self.named(newest.model, PREVIOUS)
        before = version_before(self._registry, newest.model, alias) if alias != LATEST else None
        seen = {newest.number}
        found = [record for record in (before, previous and previous.record) if record]
        for record in chain(found, each_version(self._registry, newest.model, newest.number)):
            if record.number in seen or record.retired_at_s is not None or is_left(record):
                continue
            if len(seen) > MOST_OLDER:
                return
            seen.add(record.number)
            yield record
