"""Gives out a shard that lies in memory as batches on the device.

Legend: N = examples of the shard, B = batch, C = channels, H, W = height, width, T = tokens,
M = boxes of the image that has most.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fedfleet.data.boxes import check_boxes
from fedfleet.data.shard import Examples
from fedfleet.errors import DataInvalid
from fedfleet.training.state import to_tensor
from fedfleet.types import InputSpec

# A shard of at most so many bytes is copied to a GPU as a whole, once per assignment.
RESIDENT_BYTES = 1 << 30


class Batches:
    """The examples of a shard as tensors: uint8 on the GPU, or on the host where there is none or
    the shard is too large for it; in batches normalised float, or token numbers where the model
    reads text.

    Raises:
        DataInvalid: images, tokens, labels or boxes are not what the model's card says.
    """

    def __init__(
        self,
        examples: Examples,
        inputs: InputSpec,
        num_classes: int,
        device: torch.device,
        *,
        channels_last: bool = False,
        pin_memory: bool = False,
    ) -> None:
        check_examples(examples, inputs, num_classes)
        self._is_tokens = inputs.is_tokens
        self._images_NCHW = to_tensor(examples.images)
        # What was to be answered, by example: boxes where there are any.
        self._targets_N = to_tensor(examples.labels if examples.boxes is None else examples.boxes)
        self._device = device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._pin = pin_memory and device.type == "cuda"
        if device.type == "cuda" and examples.images.nbytes <= RESIDENT_BYTES:
            self._images_NCHW = self._to_device(self._images_NCHW)
            self._targets_N = self._to_device(self._targets_N)
        # (x / 255 - mean) / std in one multiplication and one addition.
        mean, std = (
            torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1)
            for v in (inputs.mean, inputs.std)
        )
        self._scale = (1 / (255 * std)).to(device, torch.float32)
        self._shift = (-mean / std).to(device, torch.float32)

    def __len__(self) -> int:
        return len(self._targets_N)

    def take(self, index_B: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The chosen uint8 images (B, C, H, W) or tokens (B, T) with their int64 labels (B,), or
        with their boxes (B, M, 5) where they have some, on the device.
        """
        if isinstance(index_B, Tensor):
            index_B = index_B.to(self._images_NCHW.device)
        images, targets = self._images_NCHW[index_B], self._targets_N[index_B]
        return self._to_device(images), self._to_device(targets)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """A copy on the device; what is there is returned as it is."""
        if self._pin and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=self._pin)

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """Turn uint8 pixels into the float32 that the model sees, tokens into int64."""
        if self._is_tokens:
            return images_BCHW.long()
        pixels = images_BCHW.to(torch.float32, memory_format=self._format)
        return pixels.mul_(self._scale).add_(self._shift)


def check_examples(examples: Examples, inputs: InputSpec, num_classes: int) -> None:
    """Refuse data of another shape or with labels that the model does not have.

    Raises:
        DataInvalid: naming what was found and what the model expects.
    """
    want = inputs.shape
    if examples.images.shape[1:] != want or examples.images.dtype != np.uint8:
        raise DataInvalid(
            f"images have shape {examples.images.shape[1:]} ({examples.images.dtype}), "
            f"the model expects {want} (uint8)"
        )
    if inputs.is_tokens and (examples.images >= inputs.vocabulary).any():
        raise DataInvalid(
            f"tokens run to {examples.images.max()}, the model knows {inputs.vocabulary} "
            f"(0 to {inputs.vocabulary - 1})"
        )
    labels = examples.labels
    if labels.shape != (len(examples.images),) or labels.dtype != np.int64:
        raise DataInvalid(
            f"labels have shape {labels.shape} ({labels.dtype}), "
            f"expected ({len(examples.images)},) (int64)"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise DataInvalid(
            f"labels run from {labels.min()} to {labels.max()}, the model has {num_classes} "
            f"classes (0 to {num_classes - 1})"
        )
    if examples.boxes is not None:
        check_boxes(examples.boxes, len(examples.images), num_classes)


def batch_bounds(examples: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Yield where each batch of an epoch starts and stops.

    A last batch of a single example is merged into the one before: batch normalisation has no
    variance over one value, and one example would weigh as much as a whole batch.
    """
    batch_size = batch_size or examples
    steps = steps_per_epoch(examples, batch_size)
    for step in range(steps):
        yield step * batch_size, examples if step == steps - 1 else (step + 1) * batch_size


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """How many batches ``batch_bounds`` makes."""
    if not batch_size:
        return min(examples, 1)
    full, rest = divmod(examples, batch_size)
    return full + (rest > (1 if full and batch_size > 1 else 0))
