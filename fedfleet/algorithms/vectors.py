"""What several algorithms need: flat vectors of a worker, checks of the local training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedfleet.algorithms.base import Received, TrainingSettings
from fedfleet.types import Array, FloatVector, Kind, ModelState

if TYPE_CHECKING:
    from torch import Tensor


def parts_of(vector_P: FloatVector) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
    """Cut a flat vector like a model's parameters, once, on the parameters' device.

    Returns:
        A function from the trainable parameters, in schema order, to one tensor for each.
    """
    parts: list[Tensor] = []

    def cut(params: Sequence[Tensor]) -> Sequence[Tensor]:
        if not parts:
            start = 0
            for param in params:
                piece = vector_P[start : start + param.numel()].reshape(tuple(param.shape))
                parts.append(param.new_tensor(piece))
                start += param.numel()
        return parts

    return cut


def kept(received: Received, name: str) -> FloatVector:
    """The vector over trainable elements that this worker keeps, shape (P,); zero at first."""
    kept_P = received.memory.get(name)
    return np.zeros_like(received.version.trainable) if kept_P is None else kept_P


def check_sgd(training: TrainingSettings) -> None:
    """Raises ValueError: local training is not by SGD (with or without momentum)."""
    if training.optimizer != "sgd":
        raise ValueError(
            f'is defined for SGD; set training.optimizer = "sgd" (it is "{training.optimizer}")'
        )


def mean_model(models: Sequence[ModelState], weights: Sequence[float]) -> ModelState:
    """The weighted mean of models of one schema, and the largest of their counters."""

    def mean(kind: Kind) -> Array:
        vectors = [model.vector(kind) for model in models]
        if kind is Kind.COUNTER:
            return np.asarray(np.max(vectors, axis=0))
        return np.asarray(np.average(vectors, axis=0, weights=weights), kind.dtype)

    return ModelState(models[0].schema, *(mean(kind) for kind in Kind))
