"""The way down without a network: what workers start from, and the bytes that it would take."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from fedfleet.rounds.recipe import Recipe
from fedfleet.training.seeding import derive
from fedfleet.types import ModelState
from fedfleet.wire.downlink import (
    Ladder,
    cheapest_route,
    descend,
    is_lossless,
    worth_keeping,
)
from fedfleet.wire.spare import spare_small
from fedfleet.wire.weights import encode_state


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
            # Nobody reads the digest: it need only be another one for each version.
            self._ladder = Ladder.at(version, f"round-{round}", self._ladder.base_bytes)
            self._base = version
            return
        descent = descend(self._ladder, version, self._chain, derive(self._seed, "downlink", round))
        self._ladder, self._base = descent.ladder, descent.base

    def fetch(self, worker_id: str, published: ModelState | None = None) -> ModelState:
        """What a worker starts from now; counts what it has to download.

        Args:
            published: what it evaluates instead, where training goes on from another state.
        """
        if published is not None:
            # It takes the place of what the worker held, as on a device.
            self._bytes += self._ladder.base_bytes
            self._held[worker_id] = frozenset({self._initial})
            return published
        ladder, held = self._ladder, self._held[worker_id]
        route = cheapest_route(
            ladder.base_digest, ladder.base_bytes, ladder.deltas, held.__contains__
        )
        self._bytes += route.cost_bytes
        self._held[worker_id] = worth_keeping(ladder.base_digest, ladder.deltas)
        return self._base

    def count(self, size_bytes: int) -> None:
        """Count what is sent along with a version."""
        self._bytes += size_bytes

    def take_bytes(self) -> int:
        """Bytes downloaded since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken
