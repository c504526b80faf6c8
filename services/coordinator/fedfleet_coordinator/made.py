"""A version as a round has it: the one that it starts from, and the one that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedfleet.algorithms.base import Memory
from fedfleet.rounds.history import History
from fedfleet.types import Evaluation, ModelState
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.downlink import Ladder


@dataclass(frozen=True)
class Base:
    """The version that a round starts from.

    Args:
        state: what training goes on from.
        digest, size_bytes: of the published version's blob.
        number: of the published version; None for the initial state.
        state_digest, state_bytes: of the state's blob, where it is another than what was published.
        levels: narrower levels whose statistics the published blob has beside the state.
    """

    state: ModelState
    digest: str
    size_bytes: int
    number: int | None
    state_digest: str = ""
    state_bytes: int = 0
    levels: tuple[str, ...] = ()

    @property
    def start_digest(self) -> str:
        """Of the blob that training goes on from."""
        return self.state_digest or self.digest

    @property
    def start_bytes(self) -> int:
        return self.state_bytes if self.state_digest else self.size_bytes

    @property
    def is_state_published(self) -> bool:
        """Whether the published version's tensors are those of the state."""
        return not self.state_digest or bool(self.levels)


@dataclass(frozen=True)
class Made:
    """A next version that is stored as a blob and not yet committed."""

    base: Base
    ladder: Ladder
    narrow: Mapping[str, Ladder]
    memory: Memory
    history: History
    memory_digest: str
    broadcast: tuple[pb.BroadcastSection, ...]
    evaluation: Evaluation | None

    @property
    def needed(self) -> set[str]:
        """Digests of the blobs that the next round will live on."""
        ladders = (self.ladder, *self.narrow.values())
        return needed_blobs(self.base, ladders, self.broadcast, self.memory_digest)

    def to_fields(self) -> dict[str, Any]:
        """What the journal's entry of the commit says of it; only what is not empty."""
        fields: dict[str, Any] = {}
        if beside := self.needed - {self.base.digest}:
            fields["blobs"] = sorted(beside)
        if self.base.state_digest:
            fields["state_digest"] = self.base.state_digest
        if self.base.levels:
            fields["levels"] = list(self.base.levels)
        if self.ladder.deltas:
            fields["ladder"] = self.ladder.to_json()
        if self.narrow:
            fields["ladders"] = {lane: one.to_json() for lane, one in self.narrow.items()}
        return fields


def needed_blobs(
    base: Base,
    ladders: Iterable[Ladder],
    broadcast: Iterable[pb.BroadcastSection],
    memory_digest: str,
) -> set[str]:
    """Digests of the blobs by which workers come by a version and what is sent along with it."""
    sent = (one.digest for one in broadcast)
    ways = (digest for ladder in ladders for digest in ladder.blobs)
    return {*ways, base.state_digest, memory_digest, *sent} - {""}
