"""The way of a version down to workers that hold an older one.

With a lossy chain C the workers of a round start not from version x but from the base
``b = a + C(x - a)``. The anchor ``a`` is an earlier base, known exactly on both sides, so one
encoding serves every worker, whatever it has missed, and nothing is tracked per worker. What C
leaves out of x is in the next difference again: that is the coordinator's error feedback, and the
published versions lose nothing. (Anchors and corrections: DoCoFL, Dorfman 2023, arXiv 2302.00543;
error feedback downwards: Tang 2019, DoubleSqueeze, arXiv 1905.05957.)

When C misses too much, which a sparse chain does every round, the base becomes the next anchor, and
the delta to it a rung of the ladder: a worker that stayed away climbs the rungs that it missed, or
takes the anchor whole where that is cheaper. The anchor before the first is the initial state,
which a worker computes from the recipe, so it usually downloads deltas only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from fedfleet.codecs.chain import Chain
from fedfleet.codecs.encoded import square_norm
from fedfleet.errors import UpdateInvalid
from fedfleet.types import ModelState
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire import limits
from fedfleet.wire.deltas import apply_delta, encode_delta
from fedfleet.wire.updates import IDENTITY
from fedfleet.wire.weights import encode_state

# The base becomes the anchor when its squared distance from the version passes this share of the
# squared length of the round's own step: noise that training would notice, and no less.
ANCHOR_ERROR = 0.05


@dataclass(frozen=True, eq=False)
class Ladder:
    """How the workers of a round come by their base.

    Args:
        version: the published version that the base stands for.
        base_digest, base_bytes: SHA-256 and size of the base's blob.
        deltas: the way to the base, each from where the one before it leads; empty where the base
            itself is downloaded.
        anchor, anchor_digest: what the next delta begins from.
        rungs: the way to the anchor.
    """

    version: ModelState
    base_digest: str
    base_bytes: int
    deltas: tuple[pb.VersionDelta, ...]
    anchor: ModelState
    anchor_digest: str
    rungs: tuple[pb.VersionDelta, ...]

    @classmethod
    def at(cls, version: ModelState, digest: str, size_bytes: int) -> Ladder:
        """Begin anew from a version that workers get as it is."""
        return cls(version, digest, size_bytes, (), version, digest, ())

    def to_json(self) -> dict[str, Any]:
        """What a commit keeps of it, to be resumed with ``ladder_from_json``."""
        return {
            "base_digest": self.base_digest,
            "base_bytes": self.base_bytes,
            "deltas": [MessageToDict(delta) for delta in self.deltas],
            "anchor_digest": self.anchor_digest,
            "rungs": [MessageToDict(delta) for delta in self.rungs],
        }

    @property
    def blobs(self) -> frozenset[str]:
        """Digests of the blobs that workers may ask for in this round or the next.

        The anchor of the last delta is among them although the anchor may have moved: whoever holds
        nothing begins there.
        """
        deltas = (*self.rungs, *self.deltas)
        starts = (delta.from_digest for delta in self.deltas[-1:])
        return frozenset({self.anchor_digest, *starts, *(delta.digest for delta in deltas)})


def ladder_from_json(value: Mapping[str, Any], version: ModelState, anchor: ModelState) -> Ladder:
    """Read what ``to_json`` wrote, with the states that belong to it."""
    return Ladder(
        version=version,
        base_digest=value["base_digest"],
        base_bytes=value["base_bytes"],
        deltas=tuple(ParseDict(delta, pb.VersionDelta()) for delta in value["deltas"]),
        anchor=anchor,
        anchor_digest=value["anchor_digest"],
        rungs=tuple(ParseDict(delta, pb.VersionDelta()) for delta in value["rungs"]),
    )


@dataclass(frozen=True, eq=False)
class Descent:
    """One step of the ladder: what to store before it is announced, and what workers start from."""

    ladder: Ladder
    base: ModelState
    blobs: tuple[bytes, ...]


def descend(ladder: Ladder, version: ModelState, chain: Chain, seed: int) -> Descent:
    """Encode the next version for all workers at once; a function of its arguments alone.

    Raises:
        UpdateNotFinite, UpdateOutOfRange: the difference cannot be encoded.
    """
    data = encode_delta(ladder.anchor, version, chain, seed)
    base = apply_delta(ladder.anchor, data, chain)
    blob = encode_state(base)
    if len(data) >= len(blob):  # a model so small that its delta is mostly header
        blob = encode_state(version)
        return Descent(Ladder.at(version, _sha256(blob), len(blob)), version, (blob,))
    base_digest = _sha256(blob)
    delta = pb.VersionDelta(
        from_digest=ladder.anchor_digest,
        to_digest=base_digest,
        digest=_sha256(data),
        size_bytes=len(data),
    )
    deltas = _worth_climbing((*ladder.rungs, delta), len(blob))
    error = square_norm(version.trainable - base.trainable)
    moves = error > ANCHOR_ERROR * square_norm(version.trainable - ladder.version.trainable)
    return Descent(
        Ladder(
            version=version,
            base_digest=base_digest,
            base_bytes=len(blob),
            deltas=deltas,
            anchor=base if moves else ladder.anchor,
            anchor_digest=base_digest if moves else ladder.anchor_digest,
            rungs=deltas if moves else ladder.rungs,
        ),
        base,
        (data, blob) if moves else (data,),
    )


def _worth_climbing(
    deltas: tuple[pb.VersionDelta, ...], whole_bytes: int
) -> tuple[pb.VersionDelta, ...]:
    """Drop the oldest rungs, from which taking the anchor whole is cheaper."""
    kept: list[pb.VersionDelta] = []
    cost = 0
    for delta in reversed(deltas[-limits.MAX_DELTAS :]):
        if kept and cost + delta.size_bytes >= whole_bytes + deltas[-1].size_bytes:
            break
        cost += delta.size_bytes
        kept.append(delta)
    return tuple(reversed(kept))


@dataclass(frozen=True)
class Route:
    """How one worker comes by a base.

    Args:
        start_digest: the version to start from.
        start_bytes: what downloading it takes; 0 when it is held.
        deltas: what to apply, in order.
        cost_bytes: bytes to download in all.
    """

    start_digest: str
    start_bytes: int
    deltas: tuple[pb.VersionDelta, ...]
    cost_bytes: int


def cheapest_route(
    base_digest: str,
    base_bytes: int,
    deltas: Sequence[pb.VersionDelta],
    holds: Callable[[str], bool],
) -> Route:
    """Choose what to download.

    Args:
        holds: whether the worker has the blob of this digest, a version's or a delta's.
    """
    if holds(base_digest):
        return Route(base_digest, 0, (), 0)
    if not deltas:
        return Route(base_digest, base_bytes, (), base_bytes)

    def route(first: int, start_bytes: int) -> Route:
        rest = tuple(deltas[first:])
        missing = sum(delta.size_bytes for delta in rest if not holds(delta.digest))
        return Route(rest[0].from_digest, start_bytes, rest, start_bytes + missing)

    held = [route(i, 0) for i, delta in enumerate(deltas) if holds(delta.from_digest)]
    return min([*held, route(len(deltas) - 1, base_bytes)], key=lambda one: one.cost_bytes)


def worth_keeping(base_digest: str, deltas: Sequence[pb.VersionDelta]) -> frozenset[str]:
    """Digests of what a worker should keep on disk: the next delta begins at one of them."""
    if not deltas:
        return frozenset({base_digest})
    # Not the base: should it become the anchor, the anchor and the last delta lead to it.
    return frozenset({deltas[-1].from_digest, *(delta.digest for delta in deltas)})


def check_ladder(base_digest: str, deltas: Sequence[pb.VersionDelta]) -> None:
    """Check a way that was received.

    Raises:
        LimitExceeded, InvalidInput, UpdateInvalid: too long, no digests, or it does not lead there.
    """
    limits.check_digest(base_digest)
    limits.check_count("deltas", len(deltas), limits.MAX_DELTAS)
    for delta in deltas:
        for digest in (delta.from_digest, delta.to_digest, delta.digest):
            limits.check_digest(digest)
    ends = [*(delta.from_digest for delta in deltas[1:]), base_digest]
    if any(delta.to_digest != end for delta, end in zip(deltas, ends, strict=False)):
        raise UpdateInvalid("the deltas of the assignment do not lead to its base")


def is_lossless(chain: Chain) -> bool:
    """Whether versions travel as they are, so that there is nothing to descend."""
    return chain.text == IDENTITY.text


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
