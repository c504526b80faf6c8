"""The way down without a network: what workers start from, and the bytes that it would take."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fedfleet.rounds.recipe import Recipe
from fedfleet.training.seeding import derive
from fedfleet.types import ModelState
from fedfleet.wire.downlink import (
    Ladder,
    cheapest_route,
    descend,
    is_lossless,
    ladder_from_json,
    worth_keeping,
)
from fedfleet.wire.spare import spare_small
from fedfleet.wire.weights import encode_state


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptDownlink:
    """Both ends between two rounds.

    Args:
        base, anchor: as in ``Ladder``.
        ladder: its other fields, as JSON.
        held: by worker, the digests of what it has.
        waiting_bytes: downloaded since the round closed.
    """

    base: ModelState
    anchor: ModelState
    ladder: Mapping[str, Any]
    held: Mapping[str, Collection[str]]
    waiting_bytes: int


def digest_of(state: ModelState) -> str:
    """SHA-256 of a state's blob."""
    return hashlib.sha256(encode_state(state)).hexdigest()


class SimulatedDownlink:
    """Both ends: the coordinator's ladder, and what each worker holds on its disk.

    Args:
        initial: the version that every worker can compute from the recipe.
    """

    def __init__(self, recipe: Recipe, initial: ModelState) -> None:
        self._seed = recipe.seed
        self._chain = spare_small(recipe.wire.downlink_chain, initial.schema)
        blob = encode_state(initial)
        self._initial = hashlib.sha256(blob).hexdigest()
        self._ladder = Ladder.at(initial, self._initial, len(blob))
        self._base = initial
        self._held: defaultdict[str, frozenset[str]] = defaultdict(
            lambda: frozenset({self._initial})
        )
        self._bytes = 0

    def descend(self, version: ModelState, round: int) -> None:
        """Take the next version."""
        if is_lossless(self._chain):
            # The real one: a version may be one that workers hold already.
            self._ladder = Ladder.at(version, digest_of(version), self._ladder.base_bytes)
            self._base = version
            return
        descent = descend(self._ladder, version, self._chain, derive(self._seed, "downlink", round))
        self._ladder, self._base = descent.ladder, descent.base

    @property
    def base(self) -> ModelState:
        """What workers start from now."""
        return self._base

    def fetch(self, worker_id: str, *, own: str = "", beside: int = 0) -> int:
        """Count what a worker has to download before it can start; returns it, in bytes.

        Args:
            own: the digest of a whole state instead of the base: of its lane or chain, or what it
                evaluates where training goes on from another state.
            beside: bytes of what is sent along.
        """
        ladder = self._ladder
        if own:
            # It takes the place of what the worker held, as on a device.
            cost_bytes = 0 if own in self._held[worker_id] else ladder.base_bytes
            self._held[worker_id] = frozenset({self._initial, own})
        else:
            held = self._held[worker_id].__contains__
            route = cheapest_route(ladder.base_digest, ladder.base_bytes, ladder.deltas, held)
            cost_bytes = route.cost_bytes
            self._held[worker_id] = worth_keeping(ladder.base_digest, ladder.deltas)
        self._bytes += cost_bytes + beside
        return cost_bytes + beside

    def fetch_once(self) -> int:
        """Count a whole state that a worker looks at and does not keep; returns it, in bytes."""
        self._bytes += self._ladder.base_bytes
        return self._ladder.base_bytes

    def drop(self, worker_id: str) -> None:
        """A worker went to another width of the model: what it held of this one is gone."""
        self._held.pop(worker_id, None)

    def keep(self) -> KeptDownlink:
        """What ``go_on`` needs."""
        return KeptDownlink(
            base=self._base,
            anchor=self._ladder.anchor,
            ladder=self._ladder.to_json(),
            held=self._held,
            waiting_bytes=self._bytes,
        )

    def go_on(self, kept: KeptDownlink, version: ModelState) -> None:
        """Be as it was when that was kept."""
        self._ladder = ladder_from_json(kept.ladder, version, kept.anchor)
        self._base = kept.base
        self._held.update({name: frozenset(digests) for name, digests in kept.held.items()})
        self._bytes = kept.waiting_bytes

    def take_bytes(self) -> int:
        """Bytes downloaded since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken
