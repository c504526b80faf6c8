"""How workers come by what a round started from, as long as assignments of that round live on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedfleet.store.protocols import Blobs
from fedfleet.types import ModelState
from fedfleet.wire.downlink import Ladder, ladder_from_json
from fedfleet_coordinator.starts import Start


@dataclass(frozen=True)
class Way:
    """Of one round, on the run's own lane.

    Args:
        version_digest: of the version itself, which with a lossy downlink is not what workers get.
        blobs: digests of all that must stay stored meanwhile.
    """

    start: Start
    version_digest: str
    blobs: frozenset[str]

    @classmethod
    def to(cls, ladder: Ladder, version_digest: str = "") -> Way:
        """The way that a ladder is; without its states."""
        start = Start(ladder.base_digest, ladder.base_bytes, ladder.deltas)
        version_digest = version_digest or ladder.base_digest
        return cls(start, version_digest, ladder.blobs | {version_digest})


def read_way(committed: Mapping[str, Any], any_state: ModelState, blobs: Blobs) -> Way:
    """What the round after a commit started from.

    Args:
        committed: what the journal says of the commit. Any: it is JSON.
        any_state: stands for the states of a ladder, which a way has not.
    """
    version_digest = committed.get("state_digest") or committed["digest"]
    if "ladder" in committed:
        return Way.to(ladder_from_json(committed["ladder"], any_state, any_state), version_digest)
    size_bytes = blobs.size(version_digest)
    assert size_bytes is not None, "the blob of a version stays"
    return Way.to(Ladder.at(any_state, version_digest, size_bytes))
