"""The local loop over steps, for a stack of workers at once.

Legend: S = steps of the longest, W = workers, P = parameters, B = batch, F = features of an
example, K = classes, N = held-out examples of the worker that has most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedfleet.data.shard import Examples
from fedfleet.errors import TrainingFailed
from fedfleet.training.batches import Batches
from fedfleet.training.config import TrainingConfig
from fedfleet.training.dense_stack import Answers, DenseStack
from fedfleet.training.evaluation import count_answers
from fedfleet.training.loop import LoopResult, check_losses, mean_loss
from fedfleet.training.optim import Plateau
from fedfleet.training.stack_plan import Batch, Member, Plan
from fedfleet.training.state import CPU
from fedfleet.types import Evaluation, InputSpec, ModelState


class StackLoop:
    """Trains members of one model together, on the CPU; then ``result`` tells how each did.

    Args:
        members: each with training examples that fit the model.
    """

    def __init__(
        self,
        members: Sequence[Member],
        inputs: InputSpec,
        num_classes: int,
        config: TrainingConfig,
        eval_batch_size: int,
    ) -> None:
        self._config, self._inputs, self._num_classes = config, inputs, num_classes
        self._eval_batch_size = eval_batch_size
        batches = [member.batches(config) for member in members]
        # The longest first, so that those who still train are always the first rows.
        order = sorted(range(len(members)), key=lambda i: -len(batches[i]))
        self._row = {i: w for w, i in enumerate(order)}
        self._members = [members[i] for i in order]
        self._plan = Plan.of([batches[i] for i in order], [len(m.training) for m in self._members])
        self._rates = [
            member.rates(config, steps)
            for member, steps in zip(self._members, self._plan.steps_W, strict=True)
        ]
        self._stack = DenseStack.of([member.start for member in self._members])
        shape = self._plan.sizes_SW.shape
        self._losses_SW = torch.zeros(shape)
        self._squares_SW = torch.zeros(shape, dtype=torch.float64)
        self._correct_SW = torch.zeros(shape, dtype=torch.int64)
        self._answers: list[Tensor] = []
        self._cancelled_after: int | None = None

    def run(self, cancelled: Callable[[], bool] | None = None) -> None:
        """Take all steps, then ask the models about what was held out.

        Args:
            cancelled: asked after every step; True ends the work, and all results are failures.
        """
        with torch.no_grad():
            self._train(cancelled)
            self._answers = self._validate()

    def result(self, place: int) -> tuple[LoopResult, ModelState]:
        """What a member did and the state that it ended with.

        Args:
            place: of the member among those that were given.

        Raises:
            TrainingFailed: its loss, or an answer on its held-out examples, is not finite, or the
                work was cancelled.
        """
        w = self._row[place]
        member, steps = self._members[w], self._plan.steps_W[w]
        if self._cancelled_after is not None:
            done = min(self._cancelled_after, steps)
            raise TrainingFailed(f"local training was cancelled after step {done} of {steps}")
        losses_S, sizes_S = self._losses_SW[:steps, w], self._plan.sizes_SW[:steps, w]
        check_losses(losses_S, steps, member.round, self._config)
        epoch = steps // member.epochs
        result = LoopResult(
            lrs=tuple(self._rates[w]),
            train_loss=mean_loss(losses_S, sizes_S),
            train_accuracy=int(self._correct_SW[:, w].sum()) / float(sizes_S.sum()),
            validation=self._validation(w),
            plateau=Plateau(self._config.lr),
            epoch_losses=tuple(
                mean_loss(losses_S[start : start + epoch], sizes_S[start : start + epoch])
                for start in range(0, steps, epoch)
            ),
            rms_loss=self._rms_loss(w, epoch) if member.rms_loss else None,
        )
        trained_P = self._stack.rows_WP[w].numpy().copy()
        return result, replace(member.start, trainable=trained_P)

    def _train(self, cancelled: Callable[[], bool] | None) -> None:
        data = self._joined([member.training for member in self._members])
        rates_SW = torch.zeros(self._losses_SW.shape)
        for w, rates in enumerate(self._rates):
            rates_SW[: len(rates), w] = torch.tensor(rates)
        adjusters = [
            (member.adjuster, self._stack.parameters_of(w))
            for w, member in enumerate(self._members)
            if member.adjuster is not None
        ]
        stack = self._stack
        velocity_WP = torch.zeros_like(stack.rows_WP) if self._config.momentum else None
        for step, batch in enumerate(self._plan):
            workers = len(batch.index_WB)
            if workers < len(stack.rows_WP):
                stack = self._stack.head(workers)
            features_WBF, labels_WB = _taken(data, batch.index_WB)
            answers = stack.differentiate(
                features_WBF, labels_WB, batch.share_WB, self._config.label_smoothing
            )
            self._note(step, batch, answers, labels_WB)
            for adjuster, params in adjusters:
                adjuster(params)
            step_sgd(stack, rates_SW[step, :workers], velocity_WP, self._config)
            if cancelled is not None and cancelled():
                self._cancelled_after = step + 1
                return

    def _note(self, step: int, batch: Batch, answers: Answers, labels_WB: Tensor) -> None:
        workers = len(labels_WB)
        is_real_WB = batch.share_WB > 0
        losses_WB = answers.losses_WB.where(is_real_WB, 0.0)
        self._losses_SW[step, :workers] = (losses_WB * batch.share_WB).sum(1)
        self._squares_SW[step, :workers] = losses_WB.double().square().sum(1)
        is_right_WB = answers.logits_WBK.argmax(2) == labels_WB
        self._correct_SW[step, :workers] = (is_right_WB & is_real_WB).sum(1)

    def _rms_loss(self, w: int, epoch: int) -> float:
        total = float(self._squares_SW[:epoch, w].sum())
        return math.sqrt(total / len(self._members[w].training))

    def _validate(self) -> list[Tensor]:
        """The answers of each member to its held-out examples, shape (N, K)."""
        counts = [len(member.validation) for member in self._members]
        if not any(counts):
            return []
        data = self._joined([member.validation for member in self._members])
        whole = [[np.arange(count, dtype=np.int64)] for count in counts]
        index_WN = Plan.of(whole, counts).index_SWB[0]
        parts = [
            self._stack.logits(_taken(data, index_WB)[0])
            for index_WB in torch.split(index_WN, self._eval_batch_size, dim=1)
        ]
        logits_WNK = torch.cat(parts, dim=1)
        return [logits_WNK[w, :n] for w, n in enumerate(counts)]

    def _validation(self, w: int) -> Evaluation | None:
        held_out = self._members[w].validation
        if not len(held_out):
            return None
        return count_answers(self._answers[w], torch.from_numpy(held_out.labels))

    def _joined(self, shards: Sequence[Examples]) -> Batches:
        everything = Examples(
            np.concatenate([shard.images for shard in shards]),
            np.concatenate([shard.labels for shard in shards]),
        )
        return Batches(everything, self._inputs, self._num_classes, CPU)


def _taken(data: Batches, index_WB: Tensor) -> tuple[Tensor, Tensor]:
    """The features (W, B, F) and labels (W, B) at an index."""
    images, labels = data.take(index_WB.reshape(-1))
    return data.normalise(images).view(*index_WB.shape, -1), labels.view(index_WB.shape)


def step_sgd(
    stack: DenseStack, rates_W: Tensor, velocity_WP: Tensor | None, config: TrainingConfig
) -> None:
    """Clip the gradients of each worker by itself, then step as torch's SGD does.

    Args:
        velocity_WP: with momentum, zero before the first step; changed in place.
    """
    gradients_WP = stack.gradients_WP
    if config.clip_norm is not None:
        norms_W1 = torch.linalg.vector_norm(gradients_WP, dim=1, keepdim=True)
        gradients_WP.mul_((config.clip_norm / (norms_W1 + 1e-6)).clamp(max=1.0))
    if config.weight_decay:
        gradients_WP.add_(stack.rows_WP, alpha=config.weight_decay)
    step_WP = gradients_WP
    if velocity_WP is not None and config.momentum:
        step_WP = velocity_WP[: len(gradients_WP)].mul_(config.momentum).add_(gradients_WP)
        if config.nesterov:
            step_WP = gradients_WP.add_(step_WP, alpha=config.momentum)
    stack.rows_WP.addcmul_(step_WP, rates_W[:, None], value=-1.0)
