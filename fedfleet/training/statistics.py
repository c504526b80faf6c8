"""Measures the running statistics of a model over examples (HeteroFL's static batch normalisation,
Diao et al. 2021, arXiv:2010.01264, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedfleet.data.shard import Examples
from fedfleet.errors import DataEmpty
from fedfleet.training.batches import Batches, batch_bounds
from fedfleet.training.evaluation import evaluation_mode
from fedfleet.types import InputSpec


def measure_statistics(
    module: nn.Module,
    examples: Examples,
    inputs: InputSpec,
    num_classes: int,
    *,
    batch_size: int,
    device: torch.device,
) -> None:
    """Replace a module's running means and variances by the plain means over batches of examples.

    Nothing else of the module changes, and no gradient is computed. Layers without running
    statistics, dropout among them, are in evaluation mode.

    Raises:
        DataEmpty: one example, of which there is no variance.
        DataInvalid: the examples are not what the model expects.
    """
    layers = [m for m in module.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    batches = Batches(examples, inputs, num_classes, device)
    order_N = torch.arange(len(batches))
    with evaluation_mode(module), _cumulative(layers), torch.no_grad():
        for start, stop in batch_bounds(len(batches), max(batch_size, 2)):
            images, _ = batches.take(order_N[start:stop])
            try:
                module(batches.normalise(images))
            except ValueError as error:
                if stop - start > 1:
                    raise
                # torch's batch normalisation refuses a variance over a single value.
                raise DataEmpty(
                    "statistics cannot be measured over one example: give this worker more"
                ) from error


@contextmanager
def _cumulative(layers: list[_NormBase]) -> Iterator[None]:
    """Let layers begin anew, and weigh every batch alike (torch's momentum None)."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
