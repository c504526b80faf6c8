"""What one run computes and keeps on the coordinator: its model, its sum, its versions.

Everything here blocks; the driver calls it in executors.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedfleet.algorithms.base import Memory, Outcome
from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.algorithms.plan import MAIN, Plan, PlanRequest
from fedfleet.codecs import identity
from fedfleet.codecs.chain import Chain
from fedfleet.data.shard import Examples, load_examples
from fedfleet.errors import Conflict
from fedfleet.models.card import ModelCard
from fedfleet.rounds.card import card_of
from fedfleet.rounds.history import History, split_history
from fedfleet.rounds.level_facts import without_levels
from fedfleet.rounds.levels import Width, lane_of_level
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.rounds.run_levels import RunLevels
from fedfleet.rounds.selection import needs_history
from fedfleet.rounds.static_norm import Measured, level_statistics, with_measured
from fedfleet.store.protocols import Entry, RunRecord, Store, UpdateRecord, VersionRecord
from fedfleet.store.version_pages import each_version
from fedfleet.training.measuring import measure_version
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state
from fedfleet.training.trainers import Trainers
from fedfleet.types import Evaluation, FloatVector, ModelState, Schema, Update
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.downlink import Ladder, descend, is_lossless, ladder_from_json
from fedfleet.wire.spare import spare_small
from fedfleet.wire.updates import (
    IDENTITY,
    decode_update,
    header_from_json,
    header_of,
    section_info,
)
from fedfleet.wire.weights import decode_arrays, decode_state, encode_arrays, encode_state
from fedfleet_coordinator.lineage import lineage_of
from fedfleet_coordinator.made import Base, Made, needed_blobs
from fedfleet_coordinator.reports import (
    measured_from_arrays,
    measured_to_arrays,
    read_measured,
    round_metrics,
)
from fedfleet_coordinator.starts import Place, Start, Starts
from fedfleet_coordinator.traffic import Moved
from fedfleet_coordinator.ways import Way, Ways, read_way


class Workshop:
    """The computing half of one run.

    Attributes:
        base: the version that the current round starts from.
        ladder: how workers come by it; with a lossy downlink by something close to it.
        broadcast: what is sent along with it.
        history: of the workers, for selections that look back.
        levels: of a recipe that has some.
        narrow: how workers of the narrower levels come by their base, by lane, where versions are
            compressed on their way down; else theirs are whole, and stored at the first need.
    """

    def __init__(self, run: RunRecord, recipe: Recipe, store: Store, data_dir: Path | None) -> None:
        self._store = store
        self._run_id = run.run_id
        self._recipe = recipe
        self._algorithm = make_algorithm(recipe.algorithm)
        self.card = card_of(recipe)
        # The recipe's device is the workers'; evaluation runs on whatever is here.
        trainers = Trainers(
            self.card, recipe.training, recipe.evaluation, recipe.levels, device="auto"
        )
        self._trainer = trainers.at()
        seed = derive(recipe.seed, "levels")
        self.levels = RunLevels(recipe, trainers.models, seed) if trainers.models else None
        self._queried = self.levels.queried if self.levels else {}
        self._schema_at = trainers.schema
        self._chains: dict[tuple[str, str], Chain] = {}
        self._examples: Examples | None = None
        if recipe.evaluation.coordinator:
            self._examples = load_examples(
                recipe.data, "test", seed=recipe.seed, shard=None, data_dir=data_dir
            )
        self._memory_digest = store.journal.memory_digest(run.run_id)
        self._memory, self.history = self._load_memory()
        entries = store.journal.entries(run.run_id)
        committed = _commit_of(entries, run.round)
        self.base = self._load_base(run, committed)
        self._widths = self.levels.widths(run.round + 1) if self.levels else None
        self.ladder = self._load_ladder(committed)
        self.narrow = self._load_narrow(committed)
        self.broadcast = self._store_broadcast(self._memory)
        self._ways = Ways()
        self._begin(run.round + 1)
        # Blobs that nobody needs once the round is closed; a process that ended before it deleted
        # them left their names in the journal.
        self._outdated = _blobs_of(entry for entry in entries if entry.round <= run.round)
        now = [entry for entry in entries if entry.round > run.round]
        self._announced = _blobs_of(now)  # of the round that is open; a worker may be at them
        self._measured: dict[str, Measured] = dict(
            self._load_measured(entry) for entry in now if entry.kind == "statistics_reported"
        )

    @property
    def schema(self) -> Schema:
        return self._trainer.schema

    def schema_of(self, lane: str) -> Schema:
        """Of the model that workers on a lane train."""
        return self._schema_at(lane) if self.levels and lane else self.schema

    def uplink_of(self, lane: str) -> Chain:
        """What updates of a lane go through."""
        return self._chain("up", lane)

    def downlink_of(self, lane: str) -> Chain:
        """What versions go through on their way to the workers of a lane."""
        return self._chain("down", lane)

    def _chain(self, way: str, lane: str) -> Chain:
        lane = lane if self.levels else MAIN
        if (way, lane) not in self._chains:
            wire = self._recipe.wire
            chain = wire.uplink_chain if way == "up" else wire.downlink_chain
            self._chains[way, lane] = spare_small(chain, self.schema_of(lane))
        return self._chains[way, lane]

    def lane_of(self, worker_id: str, round: int) -> str:
        """The lane of a worker's level in a round."""
        return self.levels.lane_of(worker_id, round) if self.levels else MAIN

    @property
    def published(self) -> Ladder:
        """How workers come by what they evaluate: the version, where training has another state."""
        if self.base.is_state_published:
            return self.ladder
        return Ladder.at(self.base.state, self.base.digest, self.base.size_bytes)

    # A round

    def plan(self, request: PlanRequest) -> Plan:
        """Who trains in the round that begins."""
        return self._algorithm.plan(request)

    @property
    def memory(self) -> Memory:
        """The algorithm's."""
        return self._memory

    def start_of(self, lane: str, after: Sequence[str], round: int) -> Ladder | Start:
        """How a worker comes by what its assignment starts from.

        Args:
            lane, after, round: as in ``SendAssignment``.
        """
        if lane in self.narrow:
            return self.narrow[lane]
        return self._starts.at(lane, after) if lane or after else self._ways[round].start

    def published_to(self, worker_id: str, level_lane: str) -> Ladder | Start:
        """How a worker comes by what it evaluates: its lane's model, or the version.

        Args:
            level_lane: of its level.
        """
        if level_lane:
            return self.start_of(level_lane, (), self._round)
        lane = self._algorithm.lane_of(worker_id, self._memory)
        return self._starts.at(lane, ()) if lane else self.published

    def check(self, header: pb.UpdateHeader, lane: str, after: Sequence[str]) -> None:
        """Check an update whose payload is stored; raises what ``RoundSum.check`` raises."""
        payload = self._store.blobs.view(header.payload_digest)
        base_digest = self.start_of(lane, after, header.round).base_digest
        self._sum.check(decode_update(header, payload, self.uplink_of(lane)), base_digest, lane)

    def fold(self, record: UpdateRecord, lane: str, correction: float, staleness: int) -> None:
        """Add an update that the journal holds to the round's sum.

        Read from its blob block by block: no update is ever held in memory.
        """
        if not self._sum.waits:
            self._sum.fold(
                self._open(record), lane=lane, correction=correction, staleness=staleness
            )

    def _open(self, record: UpdateRecord) -> Update:
        payload = self._store.blobs.view(record.digest)
        header = header_from_json(record.header)
        return decode_update(header, payload, self.uplink_of(lane_of_level(header.level)))

    def outcome_of(self, round: int, lanes: Mapping[str, str]) -> Start:
        """How a worker comes by what the round's updates lead to, before it is published.

        Args:
            lanes: of the assignments whose updates the round closes with, by their ids.
        """
        headers = [
            header_of(header_from_json(record.header)) for record in self._counted(round, lanes)
        ]
        return self._starts.of_outcome(lambda: self._sum.outcome(headers, round).state)

    def take_measured(self, assignment_id: str, measured: Measured) -> None:
        """Have what a worker measured count."""
        self._measured[assignment_id] = measured

    def read_measured(self, report: pb.StatisticsReport) -> Measured:
        """What a worker measured, checked; raises what ``check_measured`` raises."""
        most = self._recipe.rounds.max_weight
        return read_measured(report, self.schema, most, self._queried)

    def store_measured(self, assignment_id: str, measured: Measured) -> str:
        """Store what a worker measured of it; returns the digest."""
        data = encode_arrays(measured_to_arrays(measured))
        digest = hashlib.sha256(data).hexdigest()
        self._announce(("", (assignment_id,)), digest)
        self._announced.add(self._store.blobs.put(data))
        return digest

    def _load_measured(self, entry: Entry) -> tuple[str, Measured]:
        arrays = decode_arrays(self._store.blobs.read(entry.fields["blobs"][0]))
        samples, key = entry.fields["samples"], entry.fields["assignment_id"]
        return key, measured_from_arrays(samples, arrays)

    def make_next(
        self,
        round: int,
        lanes: Mapping[str, str],
        *,
        asked: Collection[str],
        durations_s: Mapping[str, float],
        evaluate: bool,
        queries: Collection[str] = (),
    ) -> Made:
        """Compute the next version, store its bytes, evaluate it if asked.

        Args:
            lanes: of the assignments whose updates the round closes with, by their ids.
            asked: workers that were given an assignment to train.
            durations_s: by worker, from the assignment to the update.
            queries: assignments whose statistics the version takes.
        """
        records = self._counted(round, lanes)
        headers = [header_of(header_from_json(record.header)) for record in records]
        if self._sum.waits:
            for record, weight in zip(records, self._sum.weights(headers), strict=True):
                self._sum.fold(self._open(record), weight, lane=lanes[record.assignment_id])
        outcome = self._sum.outcome(headers, round, self._version_of_round)
        measured = [self._measured[key] for key in sorted(queries, key=_worker_of)]
        policy = self._recipe.algorithm.statistics
        outcome = replace(outcome, state=with_measured(outcome.state, measured, policy))
        base = self._publish(outcome, level_statistics(measured, self._queried, policy))
        ladder = self._descend(self.ladder, base, round, MAIN)
        # The slices that the next round trains.
        widths = self.levels.widths(round + 1) if self.levels else {}
        narrow = {
            lane: self._descend(one, base, round, lane, widths[lane])
            for lane, one in self.narrow.items()
        }
        history = self.history
        if needs_history(self._recipe.rounds):
            history = history.after(round, asked, headers, durations_s)
        # In one blob, so that both are committed with the version.
        kept = {**outcome.memory, **history.to_memory()}
        if self.levels and self.levels.measured:
            kept |= self.levels.measured.after(headers, durations_s)
        memory_digest = self._store.blobs.put(encode_arrays(kept)) if kept else ""
        evaluation = None
        if evaluate and self._examples is not None:
            is_last = round == self._recipe.rounds.rounds
            evaluation = self._trainer.evaluate(
                outcome.served or outcome.state,
                self._examples,
                # Of the last version alone: a hundred classes make it the larger part of a record.
                confusion=is_last,
                # Of every version, so that each of a run is told by the same measure.
                scores=True,
            )
        broadcast = self._store_broadcast(outcome.memory)
        return Made(
            base, ladder, narrow, outcome.memory, history, memory_digest, broadcast, evaluation
        )

    def measure(self, card: ModelCard, state: ModelState) -> Evaluation | None:
        """Count how a version of another run does on this run's test examples, if there are any.

        Raises what ``measure_version`` raises.
        """
        if self._examples is None:
            return None
        return measure_version(card, state, self._examples, self._recipe.evaluation)

    def _counted(self, round: int, assignment_ids: Collection[str]) -> list[UpdateRecord]:
        """The updates that a round closes with, ordered by worker: the same in every driver."""
        records = self._store.journal.updates(self._run_id, round)
        counted = [record for record in records if record.assignment_id in assignment_ids]
        return sorted(counted, key=lambda record: (record.worker_id, record.assignment_id))

    def _version_of_round(self, round: int) -> ModelState:
        """The version that an earlier round started from."""
        return decode_state(self.schema, self._store.blobs.read(self._ways[round].version_digest))

    def _publish(self, outcome: Outcome, levels: Mapping[str, FloatVector]) -> Base:
        """Store the version's bytes, and the state's where they are others.

        Args:
            levels: the statistics of the state's narrower slices. Workers need none of them: what
                they download and compute is the state alone.
        """
        assert outcome.served is None or not levels, "with levels the state itself is published"
        blob = encode_state(outcome.served or outcome.state, levels)
        digest = self._store.blobs.put(blob)
        if outcome.served is None and not levels:
            return Base(outcome.state, digest, len(blob), None)
        plain = encode_state(outcome.state)
        state_digest = self._store.blobs.put(plain)
        return Base(outcome.state, digest, len(blob), None, state_digest, len(plain), tuple(levels))

    def _descend(
        self, ladder: Ladder, base: Base, round: int, lane: str, width: Width | None = None
    ) -> Ladder:
        """The way to the next version of a lane.

        Args:
            ladder: the way to this one.
            width: of a narrower level.
        """
        if is_lossless(self.downlink_of(lane)):
            return Ladder.at(base.state, base.start_digest, base.start_bytes)
        seed = derive(self._recipe.seed, "downlink", round)
        version = width.slice.cut(base.state) if width else base.state
        descent = descend(ladder, version, self.downlink_of(lane), seed)
        for blob in descent.blobs:
            self._store.blobs.put(blob)
        return descent.ladder

    def codec_of(self, digest: str) -> Chain:
        """What a blob that workers download went through."""
        for lane, ladder in ((MAIN, self.ladder), *self.narrow.items()):
            if any(delta.digest == digest for delta in ladder.deltas):
                return self.downlink_of(lane)
        if any(delta.digest == digest for delta in self._ways.deltas):
            return self.downlink_of(MAIN)
        return IDENTITY

    def version_of(
        self, made: Made, round: int, cohort: int, duration_s: float, moved: Mapping[str, Moved]
    ) -> VersionRecord:
        """The record under which a next version is committed.

        Args:
            cohort: how many workers were asked to train.
        """
        records = self._store.journal.updates(self._run_id, round)
        metrics = round_metrics(records, made.evaluation, duration_s, moved)
        if self._algorithm.asynchrony is not None:
            starts = (header_of(header_from_json(record.header)).round for record in records)
            metrics["staleness"] = [round - start for start in starts]
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
            metrics=metrics,
            lineage=lineage_of(self._recipe, cohort),
        )

    def advance(self, made: Made, version: VersionRecord) -> None:
        """Take the committed version as the next round's base."""
        self._outdated |= self.needed
        self._announced.clear()
        self._measured.clear()
        if self.base.number is None:
            self._outdated.add(self.base.digest)
        self.ladder, self.narrow = made.ladder, dict(made.narrow)
        self.base = replace(made.base, number=version.number)
        self._memory, self._memory_digest = made.memory, made.memory_digest
        self.history = made.history
        if self.levels and self.levels.measured:
            self.levels.measured.advance()
        self.broadcast = made.broadcast
        self._begin(version.round + 1)

    def load_rounds(self, rounds: Collection[int], entries: Sequence[Entry]) -> None:
        """Find again what earlier rounds started from, after a restart.

        Args:
            rounds: those whose assignments live on.
            entries: the run's.
        """
        for round in sorted(round for round in rounds if round not in self._ways):
            if round > 1:
                committed = _commit_of(entries, round - 1)
                way = read_way(committed, self.base.state, self._store.blobs)
            else:
                state = initial_state(self.card, derive(self._recipe.seed, "initial"))
                blob = encode_state(state)
                way = Way.to(Ladder.at(state, self._store.blobs.put(blob), len(blob)))
            self._ways.add(round, way)

    def keep_rounds(self, rounds: Collection[int]) -> None:
        """Let go of what earlier rounds started from, but for these."""
        self._outdated |= self._ways.keep(rounds)

    def forget_updates(self, round: int, refused: tuple[str, ...]) -> None:
        """Delete the payloads of a closed round, those of refused updates included."""
        records = self._store.journal.updates(self._run_id, round)
        needed = self.needed
        digests = {*(record.digest for record in records), *refused, *self._outdated}
        self._outdated &= needed
        self._delete(digests - needed)

    def forget_run(self) -> None:
        """Delete what only this run's workers would have asked for; its versions stay."""
        self._delete(self.needed | ({self.base.digest} if self.base.number is None else set()))

    def _delete(self, digests: Collection[str]) -> None:
        for digest in digests:
            with suppress(Conflict):  # the same bytes are still needed by another record
                self._store.blobs.delete(digest)

    @property
    def needed(self) -> set[str]:
        """Digests of the blobs that the current round lives on, its updates aside."""
        ladders = (self.ladder, *self.narrow.values())
        needed = needed_blobs(self.base, ladders, self.broadcast, self._memory_digest)
        return needed | self._starts.digests | self._announced | self._ways.blobs

    # State from the store

    def _store_broadcast(self, memory: Memory) -> tuple[pb.BroadcastSection, ...]:
        """What the algorithm sends along with the version, as blobs."""
        sent = []
        for section in self._algorithm.broadcast(self.schema, memory):
            data = bytes(identity.encode(section.values))
            info = section_info(section, len(data), IDENTITY.steps)
            sent.append(pb.BroadcastSection(section=info, digest=self._store.blobs.put(data)))
        return tuple(sent)

    def _begin(self, round: int) -> None:
        """Make ready for the round that starts from the base."""
        self._round = round
        self._ways.add(round, Way.to(self.ladder, self.base.start_digest))
        base, memory = self.base.state, self._memory
        self._widths = self.levels.widths(round) if self.levels else None
        self._sum = RoundSum(self._recipe, self._algorithm, base, memory, self._widths)
        self._starts = Starts(
            self._algorithm,
            base,
            memory,
            self._store,
            self._open_accepted,
            self._announce,
            self._widths,
        )

    def _announce(self, place: Place, digest: str) -> None:
        """Journal the name of a blob that goes with this round."""
        lane, after = place
        fields = {"lane": lane, "after": list(after), "blobs": [digest]}
        self._store.journal.append(
            Entry(
                run_id=self._run_id,
                round=self._round,
                at_s=time.time(),
                kind="state_relayed",
                fields=fields,
            )
        )

    def _open_accepted(self, assignment_id: str) -> Update:
        """The update of an assignment that the journal holds."""
        record = self._store.journal.update(self._run_id, self._round, assignment_id)
        assert record is not None, "what was accepted is in the journal"
        return self._open(record)

    def _load_memory(self) -> tuple[Memory, History]:
        if self._memory_digest:
            kept = decode_arrays(self._store.blobs.read(self._memory_digest))
            if self.levels and self.levels.measured:
                self.levels.measured.load(kept)
            return split_history(without_levels(kept))
        return self._algorithm.start(self._trainer.schema), History()

    def _load_base(self, run: RunRecord, committed: Mapping[str, Any]) -> Base:
        if run.round == 0:
            # A function of the recipe, so it needs no place in the registry: nobody serves an
            # untrained model.
            state = initial_state(self.card, derive(self._recipe.seed, "initial"))
            blob = encode_state(state)
            return Base(state, self._store.blobs.put(blob), len(blob), None)
        for version in each_version(self._store.registry, run.model):
            if (version.run_id, version.round) == (run.run_id, run.round):
                state_digest = committed.get("state_digest", "")
                blob = self._store.blobs.read(state_digest or version.digest)
                return Base(
                    decode_state(version.schema, blob),
                    version.digest,
                    version.size_bytes,
                    version.number,
                    state_digest,
                    len(blob),
                    tuple(committed.get("levels", ())),
                )
        raise AssertionError("a round and its version are committed together")

    def _load_ladder(self, committed: Mapping[str, Any]) -> Ladder:
        """The ladder as the last commit left it: what workers hold must lead to the next base."""
        base = self.base
        kept = committed.get("ladder")
        if kept is None:
            return Ladder.at(base.state, base.start_digest, base.start_bytes)
        blob = self._store.blobs.read(kept["anchor_digest"])
        return ladder_from_json(kept, base.state, decode_state(self.schema, blob))

    def _load_narrow(self, committed: Mapping[str, Any]) -> dict[str, Ladder]:
        """The ladders of the narrower levels, where versions are compressed on their way down."""
        if self._widths is None or is_lossless(self._recipe.wire.downlink_chain):
            return {}
        narrow = {}
        for lane, width in self._widths.items():
            if lane == MAIN:
                continue
            version = width.slice.cut(self.base.state)
            kept = committed.get("ladders", {}).get(lane)
            if kept is None:
                blob = encode_state(version)
                narrow[lane] = Ladder.at(version, self._store.blobs.put(blob), len(blob))
                continue
            anchor = decode_state(
                self.schema_of(lane), self._store.blobs.read(kept["anchor_digest"])
            )
            narrow[lane] = ladder_from_json(kept, version, anchor)
        return narrow


def _worker_of(assignment_id: str) -> str:
    return assignment_id.rpartition("/")[2]


def _commit_of(entries: Iterable[Entry], round: int) -> Mapping[str, Any]:
    """What the journal says of a round's commit, if it has been. Any: it is JSON."""
    for entry in entries:
        if entry.kind == "round_committed" and entry.round == round:
            return entry.fields
    return {}


def _blobs_of(entries: Iterable[Entry]) -> set[str]:
    """Digests that journal entries name."""
    return {digest for entry in entries for digest in entry.fields.get("blobs", ())}
