"""What assignments start from where that is not the round's base: chains and lanes.

Such a state is computed from what is stored (the base, the algorithm's memory, journalled updates),
so a coordinator that comes back gets the same bytes. Everything here blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedfleet.algorithms.base import Algorithm, Memory
from fedfleet.rounds.levels import Widths
from fedfleet.rounds.relay import relayed
from fedfleet.store.protocols import Store
from fedfleet.types import ModelState, Update
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire.weights import encode_state

# The lane, and the assignments whose updates are in the state already.
Place = tuple[str, tuple[str, ...]]
# No lane is named so.
_OUTCOME: Place = ("/outcome", ())


@dataclass(frozen=True)
class Start:
    """How a worker comes by a state: always whole, since nobody else has it."""

    base_digest: str
    base_bytes: int
    deltas: tuple[pb.VersionDelta, ...] = ()


class Starts:
    """The states of one round, each stored once.

    Args:
        base: the round's, on the run's own lane.
        open_update: decodes the journalled update of an assignment of this round.
        announce: journals a digest before its blob is stored, so that a process that ends there
            leaves none behind.
        widths: of a run with levels.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        base: ModelState,
        memory: Memory,
        store: Store,
        open_update: Callable[[str], Update],
        announce: Callable[[Place, str], None],
        widths: Widths | None = None,
    ) -> None:
        self._widths = widths
        self._algorithm = algorithm
        self._base = base
        self._memory = memory
        self._store = store
        self._open = open_update
        self._announce = announce
        self._starts: dict[Place, Start] = {}

    @property
    def digests(self) -> set[str]:
        """Of all blobs that were stored here."""
        return {start.base_digest for start in list(self._starts.values())}

    def at(self, lane: str, after: Iterable[str]) -> Start:
        """The state at a place, stored if it was not.

        Args:
            lane, after: as in ``SendAssignment``; one of them is set.
        """
        place = (lane, tuple(after))
        if place not in self._starts:
            earlier = map(self._open, place[1])
            state = relayed(self._algorithm, self._base, self._memory, lane, earlier, self._widths)
            self._keep(place, state)
        return self._starts[place]

    def of_outcome(self, outcome: Callable[[], ModelState]) -> Start:
        """What the round came to, for workers that measure its statistics.

        Args:
            outcome: computes it; not asked twice.
        """
        if _OUTCOME not in self._starts:
            self._keep(_OUTCOME, outcome())
        return self._starts[_OUTCOME]

    def _keep(self, place: Place, state: ModelState) -> None:
        blob = encode_state(state)
        digest = hashlib.sha256(blob).hexdigest()
        self._announce(place, digest)
        self._starts[place] = Start(self._store.blobs.put(blob), len(blob))
