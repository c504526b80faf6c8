"""The computing half of a worker: from an assignment to an update. Blocks; run it in a thread."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from fedfleet.algorithms.base import Memory
from fedfleet.codecs import identity
from fedfleet.codecs.chain import Chain
from fedfleet.codecs.config import WireConfig
from fedfleet.errors import InvalidInput, LimitExceeded, SchemaMismatch
from fedfleet.models.card import ModelCard
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.rounds.selection import loss_asked
from fedfleet.rounds.static_norm import queried_levels
from fedfleet.training.local import LocalTrainer
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state
from fedfleet.training.trainers import FULL, Trainers
from fedfleet.training.worker import LocalRun, LocalWorker
from fedfleet.types import Evaluation, Kind, Schema, Section, Update, UpdateHeader
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire import limits
from fedfleet.wire.deltas import MAX_DELTA_HEADER, apply_delta
from fedfleet.wire.spare import spare_small
from fedfleet.wire.updates import IDENTITY, EncodedUpdate, check_section
from fedfleet.wire.uplink import encode_uplink, split_memory
from fedfleet.wire.weights import decode_state, encode_state
from fedfleet_worker.config import WorkerConfig


class Bench:
    """Holds the model and the examples of one run; another run's assignment replaces them."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self.worker_id = config.name
        self._key = ""
        self._level = ""
        self._trainers: Trainers
        self._trainer: LocalTrainer
        self._worker: LocalWorker
        self._card: ModelCard
        self._seed: int
        self._wire: WireConfig
        self._probes_sample: bool
        self._local: LocalRun
        self._queried: tuple[str, ...]
        self._uplink_chain: Chain
        self._downlink_chain: Chain
        self._uplink: Chain
        self._downlink: Chain

    def train(
        self,
        assignment: pb.Assignment,
        version: bytes,
        broadcast: Sequence[bytes],
        memory: Memory,
        on_progress: Callable[[float], None],
        cancelled: Callable[[], bool],
        until: Callable[[], bool] | None = None,
    ) -> tuple[EncodedUpdate, Memory]:
        """Train; returns the encoded update and the memory that goes with it.

        Args:
            broadcast: the blobs of the assignment's broadcast sections, in their order.
            cancelled, until: asked after every step: whether to throw the work away, and whether to
                end it with what is done.

        Raises:
            FedFleetError: with the code that the coordinator is told.
        """
        self._set_up(assignment)
        training_memory, codec_memory = split_memory(memory)
        result = self._worker.train(
            decode_state(self._trainer.schema, version),
            seed=assignment.seed,
            round=assignment.round,
            broadcast=_sections(assignment, broadcast, self._trainer.schema),
            memory=training_memory,
            on_progress=on_progress,
            cancelled=cancelled,
            until=until,
        )
        header = UpdateHeader(
            run_id=assignment.run_id,
            round=assignment.round,
            assignment_id=assignment.assignment_id,
            worker_id=self._config.name,
            base_digest=assignment.base_digest,
            schema_digest=self._trainer.schema.digest,
            weight=result.work.samples,
            steps=result.work.steps,
            lr_sum=result.work.lr_sum,
            level=assignment.level,
            metrics=result.work.metrics,
        )
        update = Update(header, result.sections)
        seed = derive(assignment.seed, "codec")
        encoded, kept = encode_uplink(update, self._wire, self._uplink, codec_memory, seed)
        return encoded, {**result.memory, **kept}

    def forget(self) -> None:
        """Let go of the model and the examples; the next assignment sets them up anew."""
        self._key = self._level = ""
        for name in ("_trainer", "_trainers", "_worker"):
            self.__dict__.pop(name, None)  # not all are there where the set-up ran out of memory

    def initial(self, assignment: pb.Assignment) -> bytes:
        """The version that the run began with, as this device computes it from the recipe.

        Usually it is the coordinator's, bit for bit: whoever uses it compares its digest.
        """
        self._set_up(assignment)
        state = initial_state(self._card, derive(self._seed, "initial"))
        if self._trainers.models is not None:
            state = self._trainers.models.slice(self._level).cut(state)
        return encode_state(state)

    def check_sizes(self, assignment: pb.Assignment) -> None:
        """Check what an assignment asks to download, before any of it is.

        Raises:
            LimitExceeded, InvalidInput, UpdateInvalid: more than the run's model can take.
        """
        self._set_up(assignment)
        schema = self._trainer.schema
        plain = {kind: schema.elements(kind) * kind.dtype.itemsize for kind in Kind}
        spare = MAX_DELTA_HEADER + 256 * len(schema.params)
        whole = sum(plain.values()) + spare
        delta_most = (
            whole
            - plain[Kind.TRAINABLE]
            + self._downlink.max_bytes(schema.elements(Kind.TRAINABLE))
        )
        sizes = [("version", assignment.base_bytes, whole)]
        sizes += [("delta", delta.size_bytes, delta_most) for delta in assignment.deltas]
        for what, size, most in sizes:
            if not 0 < size <= most:
                raise LimitExceeded(
                    f"a {what} of {size} bytes: this model's takes 1 to {most}; the recipe and the "
                    "coordinator do not agree"
                )
        limits.check_count("broadcast sections", len(assignment.broadcast), limits.MAX_SECTIONS)
        for sent in assignment.broadcast:
            limits.check_digest(sent.digest)
            check_section(sent.section, schema, IDENTITY)

    def climb(self, assignment: pb.Assignment, version: bytes, delta: bytes) -> bytes:
        """The version to which a delta leads from another.

        Raises:
            SchemaMismatch, UpdateInvalid, UpdateNotFinite: it does not apply to it.
        """
        self._set_up(assignment)
        state = decode_state(self._trainer.schema, version)
        return encode_state(apply_delta(state, delta, self._downlink))

    def evaluate(self, assignment: pb.Assignment, version: bytes, memory: Memory) -> Evaluation:
        """Evaluate a version, as the algorithm adapts it to this worker, on held-out data."""
        self._set_up(assignment)
        state = decode_state(self._trainer.schema, version)
        return self._worker.evaluate(state, split_memory(memory)[0])

    def probe(self, assignment: pb.Assignment, version: bytes, memory: Memory) -> Evaluation:
        """Evaluate a version on this worker's training examples, or on a batch of them."""
        self._set_up(assignment)
        state = decode_state(self._trainer.schema, version)
        return self._worker.probe(
            state, split_memory(memory)[0], seed=assignment.seed, sample=self._probes_sample
        )

    def query(self, assignment: pb.Assignment, version: bytes) -> pb.StatisticsReport:
        """Measure a version's running statistics on this worker's training examples.

        And those of its slices at the narrower levels, one model after the other.
        """
        self._set_up(assignment)
        base = decode_state(self._trainer.schema, version)
        state, samples = self._worker.measured(base)
        models, levels = self._trainers.models, {}
        if models is not None:
            levels = self._worker.measured_slices(base, self._queried, models, self._take_level)
        return pb.StatisticsReport(
            assignment_id=assignment.assignment_id,
            samples=samples,
            statistics=state.statistics.tolist(),
            counters=state.counters.tolist(),
            levels=[
                pb.LevelStatistics(level=level, statistics=vector.tolist())
                for level, vector in levels.items()
            ],
        )

    def _set_up(self, assignment: pb.Assignment) -> None:
        key = hashlib.sha256(assignment.recipe.encode()).hexdigest()
        if key != self._key:
            recipe = parse_recipe(assignment.recipe)
            card = card_of(recipe)
            self._key = self._level = ""
            # One at a time: a device that is given another level has little memory.
            self._trainers = Trainers(
                card, recipe.training, recipe.evaluation, recipe.levels, kept=1
            )
            self._uplink_chain = recipe.wire.uplink_chain
            self._downlink_chain = recipe.wire.downlink_chain
            self._card = card
            self._seed = recipe.seed
            self._wire = recipe.wire
            self._probes_sample = loss_asked(recipe.rounds) == "sample"
            self._local = self._local_run(recipe)
            self._queried = tuple(queried_levels(recipe, self._trainers.schema))
            self._key = key
        self._take_level(assignment.level or FULL)
        if self._trainer.schema.digest != assignment.schema_digest:
            raise SchemaMismatch(
                f"this worker builds model schema {self._trainer.schema.digest[:12]}, the "
                f"coordinator {assignment.schema_digest[:12]}: install the same release on both"
            )

    def _take_level(self, level: str) -> None:
        """Have the model at another width, and the same examples."""
        if level == self._level:
            return
        models = self._trainers.models
        if level != FULL and (models is None or level not in models.levels):
            raise InvalidInput(f"level {level[:16]!r}: the recipe has no such level")
        had_none, self._level = not self._level, ""
        # The model before goes first: a device that is given another level has little memory.
        self._trainer = None  # type: ignore[assignment]
        if not had_none:
            self._worker.rest()
        self._trainer = self._trainers.at(level)
        self._uplink = spare_small(self._uplink_chain, self._trainer.schema)
        self._downlink = spare_small(self._downlink_chain, self._trainer.schema)
        if had_none:
            self._worker = LocalWorker(self._local, self._trainer)
        self._worker.use(self._trainer, is_narrow=level != FULL)
        self._level = level

    def _local_run(self, recipe: Recipe) -> LocalRun:
        return LocalRun(
            worker_id=self._config.name,
            seed=recipe.seed,
            rounds=recipe.rounds.rounds,
            data=recipe.data,
            training=recipe.training,
            evaluation=recipe.evaluation,
            algorithm=recipe.algorithm,
            shard=self._config.shard,
            data_dir=self._config.data_dir,
            rms_loss=recipe.rounds.wants_rms_loss,
            static_norm=recipe.levels is not None and recipe.levels.static_norm,
        )


def _sections(
    assignment: pb.Assignment, blobs: Sequence[bytes], schema: Schema
) -> tuple[Section, ...]:
    """What came along with the version. Raises UpdateInvalid: not what the assignment says."""
    sections = []
    for sent, blob in zip(assignment.broadcast, blobs, strict=True):
        kind = check_section(sent.section, schema, IDENTITY)
        values = identity.decode(blob, kind, sent.section.elements)
        sections.append(Section(sent.section.name, kind, values))
    return tuple(sections)
