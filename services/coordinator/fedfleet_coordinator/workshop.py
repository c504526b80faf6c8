"""What one run computes and keeps on the coordinator: its model, its sum, its versions.

Everything here blocks; the driver calls it in executors.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfleet.algorithms.base import Memory
from fedfleet.algorithms.catalog import make_algorithm
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
from fedfleet.types import Evaluation, ModelState, Schema, Update
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.updates import decode_update, header_from_json, header_of
from fedfleet.wire.weights import decode_arrays, decode_state, encode_arrays, encode_state


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
    memory: Memory
    memory_digest: str
    evaluation: Evaluation | None


class Workshop:
    """The computing half of one run.

    Attributes:
        base: the version of the current round's assignments.
    """

    def __init__(self, run: RunRecord, recipe: Recipe, store: Store, data_dir: Path | None) -> None:
        self._store = store
        self._run_id = run.run_id
        self._recipe = recipe
        self._algorithm = make_algorithm(recipe.algorithm)
        self.uplink = recipe.wire.uplink_chain
        self.card = card_of(recipe)
        # The recipe's device is the workers'; evaluation runs on whatever is here.
        self._trainer = LocalTrainer(self.card, recipe.training, recipe.evaluation, device="auto")
        self._examples: Examples | None = None
        if recipe.evaluation.coordinator:
            self._examples = load_examples(
                recipe.data, "test", seed=recipe.seed, shard=None, data_dir=data_dir
            )
        self._memory = self._load_memory()
        self.base = self._load_base(run)
        self._sum = self._new_sum()
        self._initial_digest = ""  # to be deleted with the first round

    @property
    def schema(self) -> Schema:
        return self._trainer.schema

    # A round

    def check(self, header: pb.UpdateHeader, payload: bytes) -> Update:
        """Decode an update and check it; raises what ``RoundSum.check`` raises."""
        update = decode_update(header, payload, self.uplink)
        self._sum.check(update)
        return update

    def fold(self, update: Update) -> None:
        """Add a checked update to the round's sum."""
        self._sum.fold(update)

    def fold_stored(self, record: UpdateRecord) -> None:
        """Add an update that the journal holds."""
        header = header_from_json(record.header)
        payload = self._store.blobs.read(record.digest)
        self._sum.fold(decode_update(header, payload, self.uplink))

    def make_next(self, evaluate: bool) -> Made:
        """Compute the next version, store its bytes, evaluate it if asked."""
        state, memory = self._sum.next_state()
        blob = encode_state(state)
        digest = self._store.blobs.put(blob)
        memory_digest = self._store.blobs.put(encode_arrays(memory)) if memory else ""
        evaluation = None
        if evaluate and self._examples is not None:
            evaluation = self._trainer.evaluate(state, self._examples)
        return Made(Base(state, digest, len(blob), None), memory, memory_digest, evaluation)

    def version_of(self, made: Made, round: int, duration_s: float) -> VersionRecord:
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
            metrics=round_metrics(records, made.evaluation, duration_s),
        )

    def advance(self, made: Made, version: VersionRecord) -> None:
        """Take the committed version as the next round's base."""
        if self.base.number is None:
            self._initial_digest = self.base.digest
        self.base = Base(made.base.state, made.base.digest, made.base.size_bytes, version.number)
        self._memory = made.memory
        self._sum = self._new_sum()

    def forget_updates(self, round: int, refused: tuple[str, ...]) -> None:
        """Delete the payloads of a closed round, those of refused updates included."""
        records = self._store.journal.updates(self._run_id, round)
        digests = {*(record.digest for record in records), *refused, self._initial_digest} - {""}
        for digest in digests:
            with suppress(Conflict):  # the same bytes are still needed by another record
                self._store.blobs.delete(digest)

    # State from the store

    def _new_sum(self) -> RoundSum:
        return RoundSum(
            self._recipe, self._algorithm, self.base.state, self.base.digest, self._memory
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


def round_metrics(
    records: list[UpdateRecord], evaluation: Evaluation | None, duration_s: float
) -> dict[str, Any]:
    """What a version's record says of its round: weighted means of the workers' metrics."""
    headers = [header_of(header_from_json(record.header)) for record in records]
    return {
        "updates": len(records),
        "workers": [record.worker_id for record in records],
        "weight": sum(header.weight for header in headers),
        "bytes_up": sum(record.size_bytes for record in records),
        "duration_s": duration_s,
        "train": mean_metrics(headers),
        "evaluation": evaluation.to_json() if evaluation else None,
    }
