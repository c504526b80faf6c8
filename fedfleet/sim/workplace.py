"""What one process holds to carry out jobs: a resident model, the open data, recent examples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from fedfleet.algorithms.base import LocalWork, Memory
from fedfleet.codecs.chain import Chain
from fedfleet.data.shard import ShardLoader
from fedfleet.errors import FedFleetError
from fedfleet.rounds.levels import FULL
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.selection import loss_asked
from fedfleet.rounds.static_norm import Measured, queried_levels
from fedfleet.sim.jobs import (
    Evaluated,
    EvaluateJob,
    Failed,
    Job,
    Queried,
    QueryJob,
    Result,
    Trained,
    TrainJob,
)
from fedfleet.training.local import PARTIAL, LocalTrainer, TrainResult, TrainTask
from fedfleet.training.seeding import derive
from fedfleet.training.stacked import StackedTrainer
from fedfleet.training.trainers import Trainers
from fedfleet.training.worker import LocalRun, LocalWorker
from fedfleet.types import Update, UpdateHeader
from fedfleet.wire.downlink import is_lossless
from fedfleet.wire.spare import spare_small
from fedfleet.wire.updates import decode_update
from fedfleet.wire.uplink import encode_uplink, split_memory

# Decoded examples that a process keeps for the next time that their workers are drawn.
KEPT_BYTES = 256 << 20
RUN_ID = "sim"


class Workplace:
    """Carries out jobs one after the other.

    Args:
        shards: the recipe's data, opened once for all workers.
        kept_bytes: of decoded examples; those of the workers that were drawn last.

    Attributes:
        held_bytes: of decoded examples, after the last job.
    """

    def __init__(
        self,
        recipe: Recipe,
        trainers: Trainers,
        shards: ShardLoader,
        *,
        data_dir: Path | None,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._recipe = recipe
        self._trainers = trainers
        self._shards = shards
        self._data_dir = data_dir
        self._kept_bytes = kept_bytes
        self._queried = tuple(queried_levels(recipe, trainers.schema))
        self._uplinks: dict[str, Chain] = {}
        self._workers: OrderedDict[str, LocalWorker] = OrderedDict()
        self.held_bytes = 0
        self._counted: dict[str, int] = {}  # each worker's part of held_bytes
        self._drawn: set[str] = set()  # since held_bytes was counted

    def carry_out(self, job: Job, cancelled: Callable[[], bool] | None = None) -> Result:
        """Do a job; an error that a worker would report is a result.

        Args:
            cancelled: asked after every step of training; True stops it.
        """
        try:
            worker = self._worker(job)
            if isinstance(job, EvaluateJob):
                return self._evaluate(worker, job)
            if isinstance(job, QueryJob):
                return self._query(worker, job)
            return self._train(worker, job, cancelled)
        except FedFleetError as error:
            return _failed(job, error)
        finally:
            self._forget_old()

    def _train(
        self, worker: LocalWorker, job: TrainJob, cancelled: Callable[[], bool] | None
    ) -> Trained:
        task = self._task(worker, job)
        trainer = self._trainers.at(job.level)
        until = None if job.max_steps is None else _after(job.max_steps)
        return self._trained(job, trainer.train(replace(task, cancelled=cancelled, until=until)))

    def carry_out_together(self, jobs: Sequence[TrainJob], stacked: StackedTrainer) -> list[Result]:
        """Do training jobs as one batch; the results are in the jobs' order."""
        results: dict[str, Result] = {}
        tasks: list[tuple[TrainJob, TrainTask]] = []
        for job in jobs:
            try:
                tasks.append((job, self._task(self._worker(job), job)))
            except FedFleetError as error:
                results[job.assignment_id] = _failed(job, error)
        outcomes = stacked.train_many([task for _, task in tasks])
        for (job, _), outcome in zip(tasks, outcomes, strict=True):
            try:
                results[job.assignment_id] = (
                    _failed(job, outcome)
                    if isinstance(outcome, FedFleetError)
                    else self._trained(job, outcome)
                )
            except FedFleetError as error:
                results[job.assignment_id] = _failed(job, error)
        self._forget_old()
        return [results[job.assignment_id] for job in jobs]

    def _task(self, worker: LocalWorker, job: TrainJob) -> TrainTask:
        training_memory, _ = split_memory(job.memory)
        return worker.task(
            job.base,
            seed=job.seed,
            round=job.round,
            broadcast=job.broadcast,
            memory=training_memory,
        )

    def _trained(self, job: TrainJob, result: TrainResult) -> Trained:
        _, codec_memory = split_memory(job.memory)
        header = UpdateHeader(
            run_id=RUN_ID,
            round=job.round,
            assignment_id=job.assignment_id,
            worker_id=job.worker_id,
            base_digest=job.base_digest,
            schema_digest=self._trainers.schema(job.level).digest,
            weight=result.work.samples,
            steps=result.work.steps,
            lr_sum=result.work.lr_sum,
            level=job.level,
            metrics=result.work.metrics,
        )
        update, kept, upload_bytes = self._send(
            Update(header, result.sections), codec_memory, job.seed
        )
        return Trained(
            assignment_id=job.assignment_id,
            update=update,
            memory={**result.memory, **kept},
            upload_bytes=upload_bytes,
            examples=_examples(result.work, self._recipe.training.batch_size),
        )

    def _send(self, update: Update, codec_memory: Memory, seed: int) -> tuple[Update, Memory, int]:
        """What the coordinator would decode, what the codec keeps, and the payload's bytes."""
        uplink = self._uplink(update.header.level)
        if is_lossless(uplink):  # the bytes would come back as they are
            return update, {}, sum(section.values.nbytes for section in update.sections)
        encoded, kept = encode_uplink(
            update, self._recipe.wire, uplink, codec_memory, derive(seed, "codec")
        )
        decoded = decode_update(encoded.header, encoded.payload, uplink)
        return decoded, kept, len(encoded.payload)

    def _uplink(self, level: str) -> Chain:
        if level not in self._uplinks:
            chain, schema = self._recipe.wire.uplink_chain, self._trainers.schema(level)
            self._uplinks[level] = spare_small(chain, schema)
        return self._uplinks[level]

    def _evaluate(self, worker: LocalWorker, job: EvaluateJob) -> Evaluated:
        memory, _ = split_memory(job.memory)
        if job.probe_seed is None:
            evaluation = worker.evaluate(job.base, memory)
        else:
            sample = loss_asked(self._recipe.rounds) == "sample"
            evaluation = worker.probe(job.base, memory, seed=job.probe_seed, sample=sample)
        return Evaluated(assignment_id=job.assignment_id, evaluation=evaluation)

    def _query(self, worker: LocalWorker, job: QueryJob) -> Queried:
        def take(level: str) -> None:
            worker.use(self._trainers.at(level), is_narrow=True)

        state, samples = worker.measured(job.base)
        models, levels = self._trainers.models, {}
        if models is not None:
            levels = worker.measured_slices(job.base, self._queried, models, take)
        measured = Measured(samples, state.statistics, state.counters, levels)
        return Queried(assignment_id=job.assignment_id, measured=measured)

    def _worker(self, job: Job) -> LocalWorker:
        worker_id, trainer = job.worker_id, self._trainers.at(job.level)
        worker = self._workers.pop(worker_id, None) or self._hired(worker_id, trainer)
        worker.use(trainer, is_narrow=job.level != FULL)
        self._workers[worker_id] = worker  # the newest
        self._drawn.add(worker_id)
        return worker

    def _hired(self, worker_id: str, trainer: LocalTrainer) -> LocalWorker:
        recipe = self._recipe
        run = LocalRun(
            worker_id=worker_id,
            seed=recipe.seed,
            rounds=recipe.rounds.rounds,
            data=recipe.data,
            training=recipe.training,
            evaluation=recipe.evaluation,
            algorithm=recipe.algorithm,
            shard=int(worker_id.rpartition("-")[2]),
            data_dir=self._data_dir,
            rms_loss=recipe.rounds.wants_rms_loss,
            static_norm=recipe.levels is not None and recipe.levels.static_norm,
        )
        return LocalWorker(run, trainer, self._shards)

    def _forget_old(self) -> None:
        """Let the examples go of those that were drawn longest ago."""
        for worker_id in self._drawn:
            held = self._workers[worker_id].held_bytes
            self.held_bytes += held - self._counted.get(worker_id, 0)
            self._counted[worker_id] = held
        self._drawn.clear()
        while self.held_bytes > self._kept_bytes:
            worker_id, _ = self._workers.popitem(last=False)
            self.held_bytes -= self._counted.pop(worker_id)


def _after(steps: int) -> Callable[[], bool]:
    """True from so many calls on."""
    calls = count(1)
    return lambda: next(calls) >= steps


def _examples(work: LocalWork, batch_size: int) -> int:
    """How many examples went through training, each once per epoch."""
    whole = work.samples * len(work.epoch_losses)
    # The last epoch was cut short; that some batches are smaller is no matter.
    return min(whole, work.steps * batch_size) if PARTIAL in work.metrics else whole


def _failed(job: Job, error: FedFleetError) -> Failed:
    return Failed(assignment_id=job.assignment_id, code=error.code, reason=error.message)
