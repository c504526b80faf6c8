"""Dense layers of many workers side by side: one matrix product where each worker had its own.

The parameters of all workers are the rows of one matrix, each row in the order of the schema; so an
optimizer's step is one operation for all of them.

Legend: W = workers, P = parameters of one model, B = batch, I, O = inputs and outputs of a layer,
F = features of an example, K = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedfleet.types import Kind, ModelState, Schema


@dataclass(frozen=True, eq=False)
class _Layer:
    """Views of one layer's parameters in all rows."""

    weight_WOI: Tensor
    bias_WO: Tensor

    @classmethod
    def all_of(cls, schema: Schema, rows_WP: Tensor) -> list[_Layer]:
        parts = [
            rows_WP[:, place].view(len(rows_WP), *param.shape)
            for param, place in schema.layout(Kind.TRAINABLE)
        ]
        return [cls(weight, bias) for weight, bias in zip(parts[::2], parts[1::2], strict=True)]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a stack gave for a batch before its parameters moved.

    Args:
        losses_WB: of each example; of places without an example, something finite or not.
        logits_WBK: as the name says.
    """

    losses_WB: Tensor
    logits_WBK: Tensor


class DenseStack:
    """Dense layers with ReLU between them, as many times as there are workers.

    Args:
        schema: alternately a weight (O, I) and a bias (O,), from the first layer to the last.
        rows_WP: the parameters; changed in place by whoever trains.
    """

    def __init__(self, schema: Schema, rows_WP: Tensor, gradients_WP: Tensor | None = None) -> None:
        self._schema = schema
        self.rows_WP = rows_WP
        self.gradients_WP = torch.zeros_like(rows_WP) if gradients_WP is None else gradients_WP
        self._layers = _Layer.all_of(schema, rows_WP)
        self._gradients = _Layer.all_of(schema, self.gradients_WP)

    @classmethod
    def of(cls, states: Sequence[ModelState]) -> DenseStack:
        """Stack copies of states of one model."""
        rows_WP = torch.from_numpy(np.stack([state.trainable for state in states]))
        return cls(states[0].schema, rows_WP)

    def head(self, workers: int) -> DenseStack:
        """The first so many, in the same memory."""
        return DenseStack(self._schema, self.rows_WP[:workers], self.gradients_WP[:workers])

    def parameters_of(self, worker: int) -> list[Tensor]:
        """One worker's parameters as a module has them, with gradients, in the stack's memory."""
        row_P, gradient_P = self.rows_WP[worker], self.gradients_WP[worker]
        params = []
        for param, place in self._schema.layout(Kind.TRAINABLE):
            tensor = row_P[place].view(param.shape)
            tensor.grad = gradient_P[place].view(param.shape)
            params.append(tensor)
        return params

    def logits(self, features_WBF: Tensor) -> Tensor:
        """The answers of each worker's model to its own examples, shape (W, B, K)."""
        return self._forward(features_WBF)[-1]

    def differentiate(
        self, features_WBF: Tensor, labels_WB: Tensor, share_WB: Tensor, smoothing: float
    ) -> Answers:
        """Compute the gradients of each worker's mean cross-entropy, in place of the last ones.

        Args:
            labels_WB: int64.
            share_WB: of each example in its worker's mean; 0 where there is no example.
            smoothing: of the labels, in [0, 1), as torch's ``label_smoothing``.
        """
        layers = self._forward(features_WBF)
        logs_WBK = F.log_softmax(layers[-1], dim=2)
        classes = logs_WBK.shape[2]
        target_WBK = F.one_hot(labels_WB, classes).to(logs_WBK.dtype)
        if smoothing:
            target_WBK.mul_(1 - smoothing).add_(smoothing / classes)
        losses_WB = (target_WBK * logs_WBK).sum(2).neg_()
        delta = (logs_WBK.exp() - target_WBK).mul_(share_WB[:, :, None])
        self._backward(layers, delta)
        return Answers(losses_WB, layers[-1])

    def _forward(self, features_WBF: Tensor) -> list[Tensor]:
        """What goes into each layer, shape (W, B, I), then the logits."""
        outputs = [features_WBF]
        for i, layer in enumerate(self._layers):
            weight_WIO = layer.weight_WOI.transpose(1, 2)
            out_WBO = torch.baddbmm(layer.bias_WO[:, None], outputs[-1], weight_WIO)
            outputs.append(out_WBO if i == len(self._layers) - 1 else out_WBO.relu_())
        return outputs

    def _backward(self, outputs: list[Tensor], delta_WBO: Tensor) -> None:
        for i in reversed(range(len(self._layers))):
            inputs_WBI, gradients = outputs[i], self._gradients[i]
            torch.bmm(delta_WBO.transpose(1, 2), inputs_WBI, out=gradients.weight_WOI)
            torch.sum(delta_WBO, 1, out=gradients.bias_WO)
            if i:
                passed_WBI = torch.bmm(delta_WBO, self._layers[i].weight_WOI)
                delta_WBO = passed_WBI.mul_(inputs_WBI > 0)
