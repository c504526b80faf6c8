"""One worker's half of a run: its examples, its split, its updates. Real devices and simulations
run this same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedfleet.algorithms.base import Memory, Received
from fedfleet.algorithms.catalog import AlgorithmConfig, make_algorithm
from fedfleet.data.config import DataConfig
from fedfleet.data.shard import Examples, load_examples
from fedfleet.errors import DataEmpty
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.local import LocalTrainer, TrainResult, TrainTask
from fedfleet.training.seeding import derive
from fedfleet.training.split import split_validation
from fedfleet.types import Evaluation, ModelState, Section


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """What a worker needs to know of a run, and where its own data are.

    Args:
        seed: the recipe's.
        rounds: how many the run has.
        shard: this worker's part of a partitioned set; None where the data are its own.
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


class LocalWorker:
    """Carries out assignments of one run; examples are loaded once, at the first need."""

    def __init__(self, run: LocalRun, trainer: LocalTrainer) -> None:
        self._run = run
        self._trainer = trainer
        self._algorithm = make_algorithm(run.algorithm)
        self._split_seed = derive(run.seed, "split", run.worker_id)
        self._train: Examples | None = None
        self._held_out: Examples | None = None

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
    ) -> TrainResult:
        """Train on the worker's examples; raises what loading and training raise."""
        return self._trainer.train(
            TrainTask(
                algorithm=self._algorithm,
                received=received,
                examples=self._examples(),
                seed=seed,
                round=round,
                rounds=self._run.rounds,
                broadcast=broadcast,
                memory=memory,
                on_progress=on_progress,
                cancelled=cancelled,
                split_seed=self._split_seed,
            )
        )

    def evaluate(self, version: ModelState, memory: Memory) -> Evaluation:
        """Evaluate a version, as the algorithm adapts it to this worker.

        On what the recipe names: the held-out split, or the test share.
        """
        state = self._algorithm.start_from(Received(version, {}, memory))
        if self._held_out is None:
            self._held_out = self._load_held_out()
        return self._trainer.evaluate(state, self._held_out)

    def _load_held_out(self) -> Examples:
        if self._run.evaluation.workers_on == "test":
            return self._load("test")
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
            self._train = self._load("train")
        return self._train

    def _load(self, split: str) -> Examples:
        return load_examples(
            self._run.data,
            "train" if split == "train" else "test",
            seed=self._run.seed,
            shard=self._run.shard,
            data_dir=self._run.data_dir,
        )
