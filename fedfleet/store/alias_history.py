"""What an alias named before, which is what a rollback goes to."""

from __future__ import annotations

import threading
from collections import defaultdict

from fedfleet.store.protocols import Registry, RegistryEvent, VersionRecord

LATEST = "latest"  # moves with every committed round, and nobody moves it back
PREVIOUS = "previous"  # what the alias named before that a recipe's gates moved last


def version_before(registry: Registry, model: str, alias: str) -> VersionRecord | None:
    """The version to which an alias can be moved back, or None where there is none.

    A way back is no step forward: after a rollback the next one goes further back, and not to the
    version that was left. Versions that are retired are passed over.
    """
    for number in reversed(numbers_of(registry, model, alias)[:-1]):
        version = registry.version(model, number)
        if version.retired_at_s is None:
            return version
    return None


def numbers_of(registry: Registry, model: str, alias: str) -> list[int]:
    """The versions that led an alias to the one that it names, which is the last; each stands once.

    An alias that is set to a version that it named before is back there: what came after that is
    undone.
    """
    numbers: list[int] = []
    after_id = 0
    while events := registry.events(after_id):
        for event in events:
            if (event.kind, event.model, event.alias) == ("alias", model, alias):
                step(numbers, event.number)
        after_id = events[-1].event_id
    return numbers


def step(numbers: list[int], number: int) -> None:
    """Take an alias's next version into the numbers that led to the one before."""
    if number in numbers:
        del numbers[numbers.index(number) :]
    numbers.append(number)


class AliasPaths:
    """What all aliases but ``latest`` have named, read from the events once and then only what is
    new; safe from several threads.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._after_id = 0
        # By model and alias: the numbers as of ``numbers_of``, and all that it ever named.
        self._paths: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._named: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def has_named(self, model: str, alias: str, number: int) -> bool:
        """Whether an alias names a version, or did before."""
        with self._lock:
            self._read()
            return number in self._named[model, alias]

    def needed(self, model: str) -> set[int]:
        """What the aliases name, and where a rollback of each would go."""
        with self._lock:
            self._read()
            paths = [list(numbers) for numbers in self._paths[model].values()]
        found = {numbers[-1] for numbers in paths}
        for numbers in paths:
            for number in reversed(numbers[:-1]):
                if number in found or not self._is_retired(model, number):
                    found.add(number)
                    break
        return found

    def _is_retired(self, model: str, number: int) -> bool:
        return self._registry.version(model, number).retired_at_s is not None

    def _read(self) -> None:
        while events := self._registry.events(self._after_id):
            for event in events:
                self._take(event)
            self._after_id = events[-1].event_id

    def _take(self, event: RegistryEvent) -> None:
        if event.kind == "alias" and event.alias != LATEST:
            step(self._paths[event.model][event.alias], event.number)
            self._named[event.model, event.alias].add(event.number)
