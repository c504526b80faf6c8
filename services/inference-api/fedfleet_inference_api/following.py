"""What is served at a moment: the versions in memory, and which ones were refused and why."""

from __future__ import annotations

from dataclasses import dataclass

from fedfleet.store.protocols import VersionRecord
from fedfleet_inference_api.servable import Servable

# Refused versions that are remembered, to be shown.
MOST_REFUSED = 16


@dataclass(frozen=True)
class Target:
    """The version that an alias points at.

    Args:
        revision: of the alias; it grows also when the alias is set to the same version again.
    """

    record: VersionRecord
    revision: int


@dataclass(frozen=True)
class Refused:
    """A version that was not served, or not any longer.

    Args:
        code, reason: why, as of a FedFleetError.
        at_s: since the epoch.
        was_served: it answered callers before it was rolled back.
    """

    model: str
    number: int
    code: str
    reason: str
    at_s: float
    was_served: bool = False


@dataclass(frozen=True)
class Following:
    """What is served. One reference to it is replaced as a whole, so readers need no lock.

    Args:
        previous: the version served before, kept for an instant way back.
        candidate: what the canary alias points at, where it is another version.
        failure: why the last attempt to follow failed, empty when it did not.
        is_held: somebody went back to ``previous``; the alias is not followed until told to.
        refused: newest first.
    """

    current: Servable | None = None
    previous: Servable | None = None
    candidate: Servable | None = None
    failure: str = ""
    is_held: bool = False
    refused: tuple[Refused, ...] = ()

    def at_hand(self, record: VersionRecord) -> Servable | None:
        """The version where it is in memory already."""
        for servable in (self.current, self.previous, self.candidate):
            if servable is not None and is_same(servable.record, record):
                return servable
        return None

    def with_refused(self, refused: Refused) -> tuple[Refused, ...]:
        """``refused`` with one more in front; an older word on the same version is dropped."""
        others = (
            one
            for one in self.refused
            if (one.model, one.number) != (refused.model, refused.number)
        )
        return (refused, *others)[:MOST_REFUSED]


def is_same(left: VersionRecord, right: VersionRecord) -> bool:
    return (left.model, left.number, left.digest) == (right.model, right.number, right.digest)
