"""What an alias named before, which is what a rollback goes to."""

from __future__ import annotations

from fedfleet.store.protocols import Registry, VersionRecord


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
                if event.number in numbers:
                    del numbers[numbers.index(event.number) :]
                numbers.append(event.number)
        after_id = events[-1].event_id
    return numbers
