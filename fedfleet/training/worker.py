"""One worker's half of a run: its examples, its split, its updates. Real devices and simulations
run this same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedfleet.algorithms.base import Memory, Received
from fedfleet.algorithms.catalog import AlgorithmConfig, make_algorithm
from fedfleet.data.config import DataConfig
from fedfleet.data.shard import Examples, ShardLoader, Shards
from fedfleet.errors import DataEmpty
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.local import LocalTrainer, TrainResult, TrainTask
from fedfleet.training.seeding import derive, torch_generator
from fedfleet.training.split import split_validation
from fedfleet.training.submodels import SubModels
from fedfleet.types import Evaluation, FloatVector, ModelState, Section


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """What a worker needs to know of a run, and where its own data are.

    Args:
        seed: the recipe's.
        rounds: how many the run has.
        shard: this worker's part of a partitioned set; None where the data are its own.
        rms_loss: report the root of the mean squared loss of a sample.
        static_norm: measure a narrower version's running statistics before it is evaluated here:
            those of the whole width fit no other.
    """

    worker_id: str
    seed: int
    rounds: int
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    algorithm: AlgorithmConfig
    shard: int | None
    data_dir: Path | None
    rms_loss: bool = False
    static_norm: bool = False


class LocalWorker:
    """Carries out assignments of one run; examples are loaded once, at the first need.

    Args:
        shards: the run's data, where several workers share them; else they are opened when
            they are needed, and not kept open.
    """

    def __init__(
        self, run: LocalRun, trainer: LocalTrainer, shards: ShardLoader | None = None
    ) -> None:
        self._run = run
        self._trainer = trainer
        self._is_narrow = False
        self._shards = shards
        self._algorithm = make_algorithm(run.algorithm)
        self._split_seed = derive(run.seed, "split", run.worker_id)
        self._train: Examples | None = None
        self._held_out: Examples | None = None

    def use(self, trainer: LocalTrainer, *, is_narrow: bool = False) -> None:
        """Go on with the model at another width.

        Args:
            is_narrow: it is not the whole width.
        """
        self._trainer = trainer
        self._is_narrow = is_narrow

    def rest(self) -> None:
        """Let go of the model; ``use`` comes before anything else."""
        del self._trainer

    @property
    def held_bytes(self) -> int:
        """Bytes of the examples that are held in memory."""
        held = (part for part in (self._train, self._held_out) if part is not None)
        return sum(
            array.nbytes
            for part in held
            for array in (part.images, part.labels, part.boxes)
            if array is not None
        )

    def train(
        self,
        received: ModelState,
        *,
        seed: int,
        round: int,
        broadcast: tuple[Section, ...],
        memory: Memory,
        on_progress: Callable[[float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        until: Callable[[], bool] | None = None,
    ) -> TrainResult:
        """Train on the worker's examples; raises what loading and training raise."""
        task = self.task(received, seed=seed, round=round, broadcast=broadcast, memory=memory)
        return self._trainer.train(
            replace(task, on_progress=on_progress, cancelled=cancelled, until=until)
        )

    def task(
        self,
        received: ModelState,
        *,
        seed: int,
        round: int,
        broadcast: tuple[Section, ...],
        memory: Memory,
    ) -> TrainTask:
        """What the trainer has to do for an assignment; raises what loading raises."""
        return TrainTask(
            algorithm=self._algorithm,
            received=received,
            examples=self._examples(),
            seed=seed,
            round=round,
            rounds=self._run.rounds,
            broadcast=broadcast,
            exemplars=self._exemplars,
            memory=memory,
            rms_loss=self._run.rms_loss,
            split_seed=self._split_seed,
        )

    def measured(self, version: ModelState) -> tuple[ModelState, int]:
        """A version with the statistics that it has over this worker's training examples, and how
        many these are.
        """
        fraction = self._run.training.validation_fraction
        training, _ = split_validation(self._examples(), fraction, self._split_seed)
        return self._trainer.measured(version, training), len(training)

    def measured_slices(
        self,
        version: ModelState,
        levels: Iterable[str],
        models: SubModels,
        take: Callable[[str], None],
    ) -> dict[str, FloatVector]:
        """The statistics that narrower slices of a version have over the same examples, by level.

        Args:
            version: of the whole width.
            models: of the run.
            take: has this worker go on with the model at a level; the last one stays.
        """
        found: dict[str, FloatVector] = {}
        for level in levels:
            part = models.slice(level).cut(version)
            take(level)
            found[level] = self.measured(part)[0].statistics
        return found

    def evaluate(self, version: ModelState, memory: Memory) -> Evaluation:
        """Evaluate a version, as the algorithm adapts it to this worker.

        On what the recipe names: the held-out split, or the test share.
        """
        state = self._algorithm.start_from(Received(version, {}, memory))
        if self._run.static_norm and self._is_narrow and state.statistics.size:
            state, _ = self.measured(state)
        if self._held_out is None:
            self._held_out = self._load_held_out()
        return self._trainer.evaluate(state, self._held_out)

    def probe(self, version: ModelState, memory: Memory, *, seed: int, sample: bool) -> Evaluation:
        """Evaluate a version on the examples that this worker trains on.

        Args:
            sample: on one batch of them, drawn by the seed, instead of on all.
        """
        state = self._algorithm.start_from(Received(version, {}, memory))
        config = self._run.training
        training, _ = split_validation(
            self._examples(), config.validation_fraction, self._split_seed
        )
        if sample and config.batch_size:
            order_N = torch.randperm(len(training), generator=torch_generator(seed))
            training = training.take(order_N[: config.batch_size].numpy())
        return self._trainer.evaluate(state, training)

    def _load_held_out(self) -> Examples:
        if self._run.evaluation.workers_on == "test":
            return self._open().load("test", self._run.shard)
        fraction = self._run.training.validation_fraction
        _, held_out = split_validation(self._examples(), fraction, self._split_seed)
        if not len(held_out):
            raise DataEmpty(
                "there is no validation split to evaluate on: raise training.validation_fraction, "
                'or set evaluation.workers_on = "test"'
            )
        return held_out

    def _examples(self) -> Examples:
        if self._train is None:
            self._train = self._open().load("train", self._run.shard)
        return self._train

    def _exemplars(self) -> Examples:
        return self._open().exemplars(self._algorithm.exemplars)

    def _open(self) -> ShardLoader:
        run = self._run
        return self._shards or Shards(run.data, seed=run.seed, data_dir=run.data_dir)
