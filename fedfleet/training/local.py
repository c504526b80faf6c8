"""Local training and evaluation with one resident module, as workers and the simulator do it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import nn

from fedfleet.algorithms.base import Algorithm, LocalWork, Memory, Received, Trained
from fedfleet.algorithms.present_classes import classes_as_metrics
from fedfleet.data.shard import Examples
from fedfleet.errors import TrainingFailed
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.training.augment import check_augment
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.device import deterministic_kernels, prepare, resolve_device, thread_cap
from fedfleet.training.evaluation import mean_probabilities
from fedfleet.training.gradient import mean_gradient
from fedfleet.training.loop import LoopResult, LoopTask, require_examples, train_epochs
from fedfleet.training.objectives import objective_of
from fedfleet.training.optim import Plateau, reach
from fedfleet.training.ordered_dropout import OrderedDropout
from fedfleet.training.scaler import scale_in_training
from fedfleet.training.seeding import derive, isolated_rng
from fedfleet.training.split import split_validation
from fedfleet.training.state import CPU, load_state, schema_of, state_of, trainable_parameters
from fedfleet.training.statistics import measure_statistics
from fedfleet.training.watch import Watch
from fedfleet.types import Evaluation, FloatVector, ModelState, Section

# Keys of a worker's memory that are the schedule's; algorithms neither see nor use them.
PREFIX = "training."
# Metric of an update that was cut short: the share of its steps that were done, in (0, 1).
PARTIAL = "worker.partial"


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainTask:
    """One train assignment.

    Args:
        examples: everything that the worker holds; the local split happens here.
        seed: of this assignment's randomness, in [0, 2^63).
        split_seed: of the local split; the same in every round, or held-out examples are trained.
        round: counted from 1, of ``rounds``.
        broadcast: what came along with the version.
        exemplars: loads the run's public examples, for an algorithm that needs them.
        memory: what the worker kept from the last round it took part in; empty at first.
        rms_loss: report the root of the mean squared loss of a sample, beside the other metrics.
        on_progress: called with the share done in [0, 1], at most ten times a second.
        cancelled: asked after every step; True stops the work.
        until: asked after every step; True ends it with the steps done, where the recipe and the
            algorithm take partial work.
    """

    algorithm: Algorithm
    received: ModelState
    examples: Examples
    seed: int
    split_seed: int
    round: int
    rounds: int
    broadcast: tuple[Section, ...] = ()
    exemplars: Callable[[], Examples] | None = None
    memory: Memory
    rms_loss: bool = False
    on_progress: Callable[[float], None] | None = None
    cancelled: Callable[[], bool] | None = None
    until: Callable[[], bool] | None = None


@dataclass(frozen=True, eq=False)
class Begun:
    """What a task comes to before its first step.

    Args:
        start: the state that training starts from.
        validation: held-out examples; may be empty.
    """

    received: Received
    start: ModelState
    training: Examples
    validation: Examples


@dataclass(frozen=True, eq=False)
class TrainResult:
    """The update's sections, the memory to keep on the device, and what was done."""

    sections: tuple[Section, ...]
    memory: Memory
    work: LocalWork


class LocalTrainer:
    """Trains and evaluates one model; keeps the module, and nothing else, between tasks.

    A task's result depends on its arguments alone: bit-identical on the same machine with the
    same number of threads, whatever the module did before. One task at a time per process, since
    threads and random generators are torch's global ones (restored after each task).

    Args:
        device: overrides the recipe's, for a coordinator that evaluates on another device.
        rate: the card's width relative to the run's model, in (0, 1]; below 1 the outputs of
            hidden layers are divided by it in training.
        drop_rates: widths relative to the card's model, in (0, 1], that ordered dropout draws
            from, besides the whole one.

    Raises:
        RecipeInvalid: the device is not there, or an option does not fit the model.
        UnknownModel: the card's architecture is not installed.
        SchemaMismatch: the model holds tensors that cannot be exchanged.
    """

    def __init__(
        self,
        card: ModelCard,
        training: TrainingConfig,
        evaluation: EvaluationConfig,
        *,
        device: Literal["auto", "cpu", "cuda"] | None = None,
        rate: float = 1.0,
        drop_rates: Sequence[float] = (),
    ) -> None:
        self.card = card
        self.training = training
        self.evaluation = evaluation
        self.rate = rate
        check_augment(training.augment, card.inputs)
        self._objective = objective_of(card)
        self.device = resolve_device(device or training.device)
        with isolated_rng(0, CPU):  # the values are replaced before they are used
            self._module = prepare(build(card), training, self.device)
        self.schema = schema_of(self._module)
        self._params = trainable_parameters(self._module, self.schema)
        self._trained: nn.Module = self._module
        if training.ordered_dropout:
            drawn = sorted({*drop_rates, 1.0})
            self._trained = OrderedDropout(self._module, card, drawn, self.device)
        elif rate != 1.0:
            scale_in_training(self._module, card, rate)
        # Buffers that no state carries would otherwise leak from one task to the next.
        carried = self._module.state_dict().keys()
        self._transient = [
            (buffer, buffer.clone())
            for name, buffer in self._module.named_buffers()
            if name not in carried
        ]

    def train(self, task: TrainTask) -> TrainResult:
        """Train from the received version and let the algorithm's worker half make the update.

        Raises:
            DataEmpty, DataInvalid: the examples cannot be trained on.
            RecipeInvalid: the device cannot do the recipe's mixed precision.
            SchemaMismatch: the received version is of another model.
            TrainingFailed: the loss or a weight is not finite, or the work was cancelled.
        """
        begun = self.begin(task)
        result, trained = self._run(task, begun)
        return self.finish(task, begun, result, trained)

    def begin(self, task: TrainTask) -> Begun:
        """What a task trains on and starts from."""
        training, validation = split_validation(
            task.examples, self.training.validation_fraction, task.split_seed
        )
        received = _received(task)
        return Begun(received, task.algorithm.start_from(received), training, validation)

    def finish(
        self, task: TrainTask, begun: Begun, result: LoopResult, trained: ModelState
    ) -> TrainResult:
        """Let the algorithm's worker half make the update of what was trained.

        Raises:
            TrainingFailed: a weight is not finite.
        """
        if not (np.isfinite(trained.trainable).all() and np.isfinite(trained.statistics).all()):
            raise TrainingFailed(
                f"training diverged: a weight is not finite after {len(result.lrs)} steps in "
                f"round {task.round}; lower training.lr ({self.training.lr})"
            )
        work = LocalWork(
            samples=len(begun.training),
            steps=len(result.lrs),
            lr_sum=math.fsum(result.lrs),
            reach=reach(self.training, result.lrs),
            epoch_losses=result.epoch_losses,
            metrics=_metrics(result),
        )
        gradient = partial(self._gradient, begun.start, begun.training)
        confidences = partial(self._confidences, trained, task)
        finished = task.algorithm.finish(
            begun.received, Trained(begun.start, trained, work, gradient, confidences)
        )
        kept = finished.memory
        if self.training.scheduler == "plateau":
            kept = {**kept, **result.plateau.keep()}
        metrics = {**work.metrics, **finished.metrics}
        if self.training.mask_absent:
            metrics |= classes_as_metrics(np.unique(begun.training.labels).tolist())
        return TrainResult(finished.sections, kept, replace(work, metrics=metrics))

    def evaluate(
        self,
        state: ModelState,
        examples: Examples,
        *,
        confusion: bool = False,
        scores: bool = False,
    ) -> Evaluation:
        """Count how a version does on labelled examples.

        Args:
            confusion: count pairs of label and answer too.
            scores: measure a detector's average precisions too.

        Raises:
            DataInvalid: the examples are not what the model expects.
            NotInstalled: average precisions need a package that is not here.
            SchemaMismatch: the version is of another model.
            TrainingFailed: the model answers NaN or infinity.
        """
        with self._loaded(state, seed=0):
            return self._objective.evaluate(
                self._module,
                examples,
                self.card.inputs,
                batch_size=self.evaluation.batch_size,
                device=self.device,
                confusion=confusion,
                scores=scores,
            )

    def measured(self, state: ModelState, examples: Examples) -> ModelState:
        """A version with the running statistics that it has over these examples.

        Raises:
            DataEmpty, DataInvalid: the examples are none, or not what the model expects.
            SchemaMismatch: the version is of another model.
            TrainingFailed: a statistic is not finite.
        """
        require_examples(examples)
        with self._loaded(state, seed=0):
            measure_statistics(
                self._module,
                examples,
                self.card.inputs,
                len(self.card.classes),
                batch_size=self.evaluation.batch_size,
                device=self.device,
            )
            found = state_of(self._module, self.schema)
        if not np.isfinite(found.statistics).all():
            raise TrainingFailed("a running statistic of the version is not finite")
        return found

    def _gradient(self, start: ModelState, training: Examples) -> FloatVector:
        with self._loaded(start, seed=0):
            return mean_gradient(
                self._module,
                self._params,
                training,
                self.card.inputs,
                self._objective,
                self.training,
                self.device,
            )

    def _confidences(self, trained: ModelState, task: TrainTask) -> FloatVector:
        assert task.exemplars is not None, "the recipe was checked for them"
        with self._loaded(trained, seed=0):
            return mean_probabilities(
                self._module,
                task.exemplars(),
                self.card.inputs,
                len(self.card.classes),
                batch_size=self.evaluation.batch_size,
                device=self.device,
            )

    def _run(self, task: TrainTask, begun: Begun) -> tuple[LoopResult, ModelState]:
        adjuster = task.algorithm.adjuster(begun.received)
        epochs = task.algorithm.epochs(task.round, self.training.epochs)
        may_cut = self.training.partial_work and task.algorithm.takes_partial(task.round)
        seed = derive(task.seed, "round", task.round)
        if isinstance(self._trained, OrderedDropout):
            self._trained.reseed(derive(seed, "width"))
        with self._loaded(begun.start, seed=derive(seed, "dropout")):
            result = train_epochs(
                self._trained,
                self._params,
                LoopTask(
                    training=begun.training,
                    validation=begun.validation,
                    inputs=self.card.inputs,
                    objective=self._objective,
                    seed=seed,
                    round=task.round,
                    rounds=task.rounds,
                    plateau=Plateau.recall(self.training, task.memory),
                    eval_batch_size=self.evaluation.batch_size,
                    rms_loss=task.rms_loss,
                ),
                replace(self.training, epochs=epochs),
                self.device,
                adjuster=adjuster,
                watch=Watch(task.on_progress, task.cancelled, task.until if may_cut else None),
            )
            trained = state_of(self._module, self.schema)
        return result, trained

    @contextmanager
    def _loaded(self, state: ModelState, *, seed: int) -> Iterator[None]:
        """Give the module a version's values, and the task its own random numbers."""
        load_state(self._module, state)
        with torch.no_grad():
            for buffer, fresh in self._transient:
                buffer.copy_(fresh)
        with (
            thread_cap(self.training.threads),
            deterministic_kernels(self.device),
            isolated_rng(seed, self.device),
        ):
            yield


def _received(task: TrainTask) -> Received:
    """What the algorithm's worker half sees: the schedule's part of the memory is not its own."""
    return Received(
        task.received,
        {section.name: section.values for section in task.broadcast},
        {key: array for key, array in task.memory.items() if not key.startswith(PREFIX)},
        task.round,
    )


def _metrics(result: LoopResult) -> dict[str, float]:
    metrics = {"train_loss": result.train_loss, "train_accuracy": result.train_accuracy}
    if result.share < 1:
        metrics[PARTIAL] = result.share
    if result.rms_loss is not None:
        metrics["rms_loss"] = result.rms_loss
    if result.validation is not None:
        metrics["validation_loss"] = result.validation.loss
        metrics["validation_accuracy"] = result.validation.accuracy
    return metrics
