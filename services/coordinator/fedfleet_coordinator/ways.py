"""How workers come by what a round started from, as long as assignments of that round live on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedfleet.errors import AssignmentClosed
from fedfleet.store.protocols import Blobs
from fedfleet.types import ModelState
from fedfleet.v1 import types_pb2 as pb
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


class Ways:
    """Of the rounds whose assignments live on.

    May be read by several threads: what is there is never changed in place.
    """

    def __init__(self) -> None:
        self._ways: Mapping[int, Way] = {}

    def __contains__(self, round: int) -> bool:
        return round in self._ways

    def __getitem__(self, round: int) -> Way:
        """Raises AssignmentClosed."""
        if round not in self._ways:
            raise AssignmentClosed(f"round {round} is over, and so are its assignments")
        return self._ways[round]

    def add(self, round: int, way: Way) -> None:
        self._ways = {**self._ways, round: way}

    def keep(self, rounds: Collection[int]) -> set[str]:
        """Let go of all others; returns the blobs of those."""
        gone = {digest for round in self._ways.keys() - set(rounds) for digest in self[round].blobs}
        self._ways = {round: way for round, way in self._ways.items() if round in rounds}
        return gone

    @property
    def blobs(self) -> set[str]:
        """Digests of all that must stay stored."""
        return {digest for way in self._ways.values() for digest in way.blobs}

    @property
    def deltas(self) -> Iterator[pb.VersionDelta]:
        """All that workers may ask for."""
        for way in self._ways.values():
            yield from way.start.deltas
