"""What one run computes and keeps on the coordinator: its model, its sum, its versions.

Everything here blocks; the driver calls it in executors.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedfleet.algorithms.base import Memory
from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.codecs.chain import Chain
from fedfleet.data.shard import Examples, load_examples
from fedfleet.errors import Conflict
from fedfleet.rounds.card import card_of
from fedfleet.rounds.metrics import mean_metrics
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.store.protocols import RunRecord, Store, UpdateRecord, VersionRecord
from fedfleet.training.local import LocalTrainer
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state
from fedfleet.types import Evaluation, ModelState, Schema
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.downlink import Ladder, descend, is_lossless, ladder_from_json
from fedfleet.wire.spare import spare_small
from fedfleet.wire.updates import IDENTITY, decode_update, header_from_json, header_of
from fedfleet.wire.weights import decode_arrays, decode_state, encode_arrays, encode_state
from fedfleet_coordinator.traffic import Moved


@dataclass(frozen=True)
class Base:
    """The version that a round starts from. ``number`` is None for the initial state."""

    state: ModelState
    digest: str
    size_bytes: int
    number: int | None


@dataclass(frozen=True)
class Made:
    """A next version that is stored as a blob and not yet committed."""

    base: Base
    ladder: Ladder
    memory: Memory
    memory_digest: str
    evaluation: Evaluation | None


class Workshop:
    """The computing half of one run.

    Attributes:
        base: the version that the current round starts from.
        ladder: how workers come by it; with a lossy downlink by something close to it.
    """

    def __init__(self, run: RunRecord, recipe: Recipe, store: Store, data_dir: Path | None) -> None:
        self._store = store
        self._run_id = run.run_id
        self._recipe = recipe
        self._algorithm = make_algorithm(recipe.algorithm)
        self.card = card_of(recipe)
        # The recipe's device is the workers'; evaluation runs on whatever is here.
        self._trainer = LocalTrainer(self.card, recipe.training, recipe.evaluation, device="auto")
        self.uplink = spare_small(recipe.wire.uplink_chain, self._trainer.schema)
        self.downlink = spare_small(recipe.wire.downlink_chain, self._trainer.schema)
        self._examples: Examples | None = None
        if recipe.evaluation.coordinator:
            self._examples = load_examples(
                recipe.data, "test", seed=recipe.seed, shard=None, data_dir=data_dir
            )
        self._memory = self._load_memory()
        self.base = self._load_base(run)
        self.ladder = self._load_ladder(run)
        self._sum = self._new_sum()
        self._outdated: set[str] = set()  # blobs that no worker needs once the round is closed

    @property
    def schema(self) -> Schema:
        return self._trainer.schema

    # A round

    def check(self, header: pb.UpdateHeader) -> None:
        """Check an update whose payload is stored; raises what ``RoundSum.check`` raises."""
        payload = self._store.blobs.view(header.payload_digest)
        self._sum.check(decode_update(header, payload, self.uplink))

    def fold(self, record: UpdateRecord) -> None:
        """Add an update that the journal holds to the round's sum.

        Read from its blob block by block: no update is ever held in memory.
        """
        header = header_from_json(record.header)
        payload = self._store.blobs.view(record.digest)
        self._sum.fold(decode_update(header, payload, self.uplink))

    def make_next(self, round: int, *, evaluate: bool) -> Made:
        """Compute the next version, store its bytes, evaluate it if asked."""
        state, memory = self._sum.next_state()
        blob = encode_state(state)
        base = Base(state, self._store.blobs.put(blob), len(blob), None)
        memory_digest = self._store.blobs.put(encode_arrays(memory)) if memory else ""
        evaluation = None
        if evaluate and self._examples is not None:
            evaluation = self._trainer.evaluate(state, self._examples)
        return Made(base, self._next_ladder(base, round), memory, memory_digest, evaluation)

    def _next_ladder(self, base: Base, round: int) -> Ladder:
        if is_lossless(self.downlink):
            return Ladder.at(base.state, base.digest, base.size_bytes)
        seed = derive(self._recipe.seed, "downlink", round)
        descent = descend(self.ladder, base.state, self.downlink, seed)
        for blob in descent.blobs:
            self._store.blobs.put(blob)
        return descent.ladder

    def codec_of(self, digest: str) -> Chain:
        """What a blob that workers download went through."""
        is_delta = any(delta.digest == digest for delta in self.ladder.deltas)
        return self.downlink if is_delta else IDENTITY

    def version_of(
        self, made: Made, round: int, duration_s: float, moved: Mapping[str, Moved]
    ) -> VersionRecord:
        """The record under which a next version is committed."""
        records = self._store.journal.updates(self._run_id, round)
        return VersionRecord(
            model=self._recipe.name,
            number=1 + self._store.registry.newest_number(self._recipe.name),
            digest=made.base.digest,
            size_bytes=made.base.size_bytes,
            schema=self.schema,
            run_id=self._run_id,
            round=round,
            parent=self.base.number,
            created_at_s=time.time(),
            card=self.card.to_json(),
            metrics=round_metrics(records, made.evaluation, duration_s, moved),
        )

    def advance(self, made: Made, version: VersionRecord) -> None:
        """Take the committed version as the next round's base."""
        if self.base.number is None:
            self._outdated.add(self.base.digest)
        self._outdated |= self.ladder.blobs
        self.ladder = made.ladder
        self.base = Base(made.base.state, made.base.digest, made.base.size_bytes, version.number)
        self._memory = made.memory
        self._sum = self._new_sum()

    def forget_updates(self, round: int, refused: tuple[str, ...]) -> None:
        """Delete the payloads of a closed round, those of refused updates included."""
        records = self._store.journal.updates(self._run_id, round)
        digests = {*(record.digest for record in records), *refused, *self._outdated}
        self._outdated.clear()
        for digest in digests - self.ladder.blobs:
            with suppress(Conflict):  # the same bytes are still needed by another record
                self._store.blobs.delete(digest)

    # State from the store

    def _new_sum(self) -> RoundSum:
        return RoundSum(
            self._recipe, self._algorithm, self.base.state, self.ladder.base_digest, self._memory
        )

    def _load_memory(self) -> Memory:
        digest = self._store.journal.memory_digest(self._run_id)
        if digest:
            return decode_arrays(self._store.blobs.read(digest))
        return self._algorithm.start(self._trainer.schema)

    def _load_base(self, run: RunRecord) -> Base:
        if run.round == 0:
            # A function of the recipe, so it needs no place in the registry: nobody serves an
            # untrained model.
            state = initial_state(self.card, derive(self._recipe.seed, "initial"))
            blob = encode_state(state)
            return Base(state, self._store.blobs.put(blob), len(blob), None)
        for version in self._store.registry.versions(run.model):
            if (version.run_id, version.round) == (run.run_id, run.round):
                blob = self._store.blobs.read(version.digest)
                state = decode_state(version.schema, blob)
                return Base(state, version.digest, len(blob), version.number)
        raise AssertionError("a round and its version are committed together")

    def _load_ladder(self, run: RunRecord) -> Ladder:
        """The ladder as the last commit left it: what workers hold must lead to the next base."""
        base = self.base
        kept = {
            entry.round: entry.fields["ladder"]
            for entry in self._store.journal.entries(run.run_id)
            if "ladder" in entry.fields
        }
        if run.round not in kept:
            return Ladder.at(base.state, base.digest, base.size_bytes)
        blob = self._store.blobs.read(kept[run.round]["anchor_digest"])
        return ladder_from_json(kept[run.round], base.state, decode_state(self.schema, blob))


def round_metrics(
    records: list[UpdateRecord],
    evaluation: Evaluation | None,
    duration_s: float,
    moved: Mapping[str, Moved],
) -> dict[str, Any]:
    """What a version's record says of its round: weighted means of the workers' metrics."""
    headers = [header_of(header_from_json(record.header)) for record in records]
    return {
        "updates": len(records),
        "workers": [record.worker_id for record in records],
        "weight": sum(header.weight for header in headers),
        "bytes_up": sum(record.size_bytes for record in records),
        "traffic": {worker_id: asdict(one) for worker_id, one in moved.items()},
        "duration_s": duration_s,
        "train": mean_metrics(headers),
        "evaluation": evaluation.to_json() if evaluation else None,
    }
