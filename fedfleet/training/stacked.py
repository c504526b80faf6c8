"""Trains many workers' small models as one batch: as many steps as one worker takes, not as all.

Each worker has its own start, examples, order of examples, adjustment of gradients and number of
steps, as ``LocalTrainer`` would have them; only the arithmetic is done for all at once. So results
differ from that trainer's by the rounding of float32: a product of many matrices adds up in another
order than that of one (docs/decisions/0014-workers-in-one-batch-only-on-request.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Union

from fedfleet.errors import FedFleetError
from fedfleet.training.batches import check_examples
from fedfleet.training.device import thread_cap
from fedfleet.training.local import Begun, LocalTrainer, TrainResult, TrainTask
from fedfleet.training.loop import require_examples
from fedfleet.training.seeding import derive
from fedfleet.training.stack_loop import StackLoop
from fedfleet.training.stack_plan import Member
from fedfleet.training.state import check_schema

# What a task came to: its result, or what ``LocalTrainer.train`` would have raised.
TaskOutcome = Union[TrainResult, FedFleetError]


def why_not_stacked(trainer: LocalTrainer) -> str:
    """Why a recipe's workers cannot be trained as one batch; nothing where they can.

    They can where the model is ``mlp`` at full width, on the processor, in float32, by SGD with a
    rate that does not depend on what a worker held out, where examples go in as they are, and all
    classes count. Other models gain nothing (``cnn`` was slower) or draw random numbers, or depend
    on the batch as a whole.
    """
    training = trainer.training
    if trainer.card.model.architecture != "mlp":
        return f'model.architecture = "{trainer.card.model.architecture}" (only "mlp")'
    if trainer.device.type != "cpu":
        return f'training.device = "{trainer.device.type}" (only "cpu")'
    for name, wanted in (("optimizer", "sgd"), ("amp", "off"), ("augment", "none")):
        if getattr(training, name) != wanted:
            return f'training.{name} = "{getattr(training, name)}" (only "{wanted}")'
    if training.scheduler == "plateau":
        return 'training.scheduler = "plateau"'
    for name in ("mask_absent", "ordered_dropout"):
        if getattr(training, name):
            return f"training.{name} = true"
    if trainer.rate != 1.0:
        return f"levels (this one has rate {trainer.rate})"
    return ""


class StackedTrainer:
    """Trains tasks of one model, as many together as it may.

    Args:
        trainer: trains one by one what cannot be stacked, and computes what algorithms ask for
            after training.
        most: tasks in one batch; 1 trains each by itself, bit-identical with ``trainer``.
    """

    def __init__(self, trainer: LocalTrainer, most: int) -> None:
        self._trainer = trainer
        self.most = 1 if why_not_stacked(trainer) else most

    def train_many(
        self, tasks: Sequence[TrainTask], cancelled: Callable[[], bool] | None = None
    ) -> list[TaskOutcome]:
        """Train each task; the outcomes are in the tasks' order.

        What fails one task leaves the others alone. A task that reports progress, or can be
        cancelled by itself, is trained by itself.

        Args:
            cancelled: asked after every step of a batch; True fails all of its tasks.
        """
        outcomes: dict[int, TaskOutcome] = {}
        together = [i for i, task in enumerate(tasks) if not _is_watched(task)]
        if self.most > 1 and len(together) > 1:
            for start in range(0, len(together), self.most):
                places = together[start : start + self.most]
                stacked = self._stacked([tasks[i] for i in places], cancelled)
                outcomes.update(zip(places, stacked, strict=True))
        return [
            outcomes[i] if i in outcomes else self._alone(task, cancelled)
            for i, task in enumerate(tasks)
        ]

    def _alone(self, task: TrainTask, cancelled: Callable[[], bool] | None) -> TaskOutcome:
        try:
            return self._trainer.train(replace(task, cancelled=task.cancelled or cancelled))
        except FedFleetError as error:
            return error

    def _stacked(
        self, tasks: Sequence[TrainTask], cancelled: Callable[[], bool] | None
    ) -> list[TaskOutcome]:
        outcomes: dict[int, TaskOutcome] = {}
        begun: dict[int, tuple[Begun, Member]] = {}
        for i, task in enumerate(tasks):
            try:
                begun[i] = self._begin(task)
            except FedFleetError as error:
                outcomes[i] = error
        if begun:
            loop = self._run([member for _, member in begun.values()], cancelled)
        for place, (i, (start, _)) in enumerate(begun.items()):
            try:
                outcomes[i] = self._trainer.finish(tasks[i], start, *loop.result(place))
            except FedFleetError as error:
                outcomes[i] = error
        return [outcomes[i] for i in range(len(tasks))]

    def _run(self, members: list[Member], cancelled: Callable[[], bool] | None) -> StackLoop:
        trainer = self._trainer
        with thread_cap(trainer.training.threads):
            loop = StackLoop(
                members,
                trainer.card.inputs,
                len(trainer.card.classes),
                trainer.training,
                trainer.evaluation.batch_size,
            )
            loop.run(cancelled)
        return loop

    def _begin(self, task: TrainTask) -> tuple[Begun, Member]:
        """Raises what training one by one would raise before its first step."""
        trainer = self._trainer
        begun = trainer.begin(task)
        check_schema(trainer.schema, begun.start)
        require_examples(begun.training)
        for part in (begun.training, begun.validation):
            check_examples(part, trainer.card.inputs, len(trainer.card.classes))
        member = Member(
            start=begun.start,
            training=begun.training,
            validation=begun.validation,
            epochs=task.algorithm.epochs(task.round, trainer.training.epochs),
            seed=derive(task.seed, "round", task.round),
            round=task.round,
            rounds=task.rounds,
            adjuster=task.algorithm.adjuster(begun.received),
            rms_loss=task.rms_loss,
        )
        return begun, member


def _is_watched(task: TrainTask) -> bool:
    return any(hook is not None for hook in (task.on_progress, task.cancelled, task.until))
