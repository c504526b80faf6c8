"""What is served at a moment: the versions in memory, and which ones were refused and why."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from fedfleet.errors import FedFleetError
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

    @classmethod
    def now(
        cls, record: VersionRecord, error: FedFleetError, *, was_served: bool = False
    ) -> Refused:
        """A version that is refused at this moment."""
        at_s = time.time()
        return cls(record.model, record.number, error.code, error.message, at_s, was_served)

    @property
    def version(self) -> tuple[str, int]:
        return self.model, self.number


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
            if is_of(servable, record):
                return servable
        return None

    def with_refused(self, refused: Refused) -> tuple[Refused, ...]:
        """``refused`` with one more in front; an older word on the same version is dropped."""
        others = (one for one in self.refused if one.version != refused.version)
        return (refused, *others)[:MOST_REFUSED]

    def without_refused(self, record: VersionRecord) -> tuple[Refused, ...]:
        """``refused`` without a version that is in use now."""
        return tuple(one for one in self.refused if one.version != (record.model, record.number))


def is_of(servable: Servable | None, record: VersionRecord) -> bool:
    """Whether a version in memory is the one that a record describes."""
    return servable is not None and is_same(servable.record, record)


def is_same(left: VersionRecord, right: VersionRecord) -> bool:
    return (left.model, left.number, left.digest) == (right.model, right.number, right.digest)


def of_model(servable: Servable | None, model: str) -> Servable | None:
    """The version where it is one of this model."""
    return servable if servable is not None and servable.record.model == model else None


def of_other_model(servable: Servable | None, model: str) -> Servable | None:
    """The version where it is one of another model."""
    return servable if servable is not None and servable.record.model != model else None


def under(servable: Servable, alias: str) -> Servable:
    """The version as found under an alias; empty where none that is followed points at it."""
    return servable if servable.alias == alias else replace(servable, alias=alias)
