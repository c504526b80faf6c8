"""The examples that one worker, or the coordinator's evaluation, works on.

Legend: n = examples, C = channels, H, W = size, T = tokens, M = boxes of the image that has most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from fedfleet.data.boxes import check_boxes
from fedfleet.data.catalog import Split, describe, open_dataset
from fedfleet.data.config import DataConfig
from fedfleet.data.draws import Draws
from fedfleet.data.images import (
    BoxedImages,
    Boxes,
    Index,
    LabeledImages,
    Labels,
    OwnedImages,
    Pixels,
)
from fedfleet.data.noise import add_noise, noise_level
from fedfleet.data.partition import partition
from fedfleet.errors import DataEmpty, DataInvalid, DataMissing


@dataclass(frozen=True, eq=False)
class Examples:
    """Decoded images with their labels. Not to be mutated.

    Args:
        images: uint8, shape (n, C, H, W); of a data set of text its tokens, shape (n, T).
        labels: int64, shape (n,); with boxes the class of the largest.
        boxes: float32, shape (n, M, 5), as ``images.Boxes`` says; None where the task is to
            classify whole images.
    """

    images: Pixels
    labels: Labels
    boxes: Boxes | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Index) -> Examples:
        """The examples at an index, in its order."""
        boxes = None if self.boxes is None else self.boxes[index]
        return Examples(self.images[index], self.labels[index], boxes)


class ShardLoader(Protocol):
    """Whatever loads shards as ``Shards`` does."""

    def load(self, split: Split, shard: int | None) -> Examples:
        """Load a shard; as ``Shards.load``."""

    def exemplars(self, per_class: int) -> Examples:
        """As ``Shards.exemplars``."""


class Shards:
    """A configured data set and its partition; opens a split, and draws the partition, once.

    Args:
        seed: the recipe's, from which the partition is drawn.
    """

    def __init__(self, config: DataConfig, *, seed: int, data_dir: Path | None) -> None:
        self._config = config
        self._seed = seed
        self._data_dir = data_dir
        self.spec = describe(config)

    @cached_property
    def train(self) -> LabeledImages:
        """The training split; raises what ``open_dataset`` raises."""
        return open_dataset(self._config, "train", self._data_dir)

    @cached_property
    def test(self) -> LabeledImages:
        """The test split; raises what ``open_dataset`` raises."""
        return open_dataset(self._config, "test", self._data_dir)

    @cached_property
    def indexes(self) -> list[Index]:
        """The rows of each training shard; raises what ``partition`` raises."""
        train = self.train
        return partition(
            train.labels,
            self._config,
            len(self.spec.classes),
            self._seed,
            groups=self.spec.groups,
            owners=train.owners if isinstance(train, OwnedImages) else None,
        )

    @cached_property
    def owners(self) -> list[tuple[str, ...]]:
        """The names of those whose examples each training shard holds, where they have owners."""
        train = self.train
        if not isinstance(train, OwnedImages):
            return [()] * len(self.indexes)
        names = train.owner_names
        return [tuple(names[i] for i in np.unique(train.owners[rows])) for rows in self.indexes]

    @property
    def boxes(self) -> Boxes | None:
        """Those of the whole training split; None where the data set has none."""
        return self._boxes(self.train, np.arange(len(self.train.labels), dtype=np.int64))

    def load(self, split: Split, shard: int | None) -> Examples:
        """Load a shard: of the partition for training; for test every ``workers``-th row, or what
        belongs to the shard's owners where the partition is natural.

        Args:
            shard: which one, from 0; None is the whole test split, for the coordinator. Without a
                partition the device's data are its own and the shard has no meaning.

        Raises:
            DataMissing: no such shard, or none named where the recipe partitions the data.
            DataEmpty, DataInvalid: nothing there, or not what the recipe describes.
        """
        images = self.train if split == "train" else self.test
        workers = self._config.workers
        if workers is None or (shard is None and split == "test"):
            return self._decode(images, np.arange(len(images.labels), dtype=np.int64))
        number = _checked(shard, workers)
        index = self.indexes[number] if split == "train" else self._test_index(number, workers)
        if len(index) == 0:
            raise DataEmpty(f"shard {shard} of the {split} split holds no example")
        examples = self._decode(images, index)
        return self._with_noise(examples, number, workers) if split == "train" else examples

    def exemplars(self, per_class: int) -> Examples:
        """The first examples of each class of the test split: the same on every device.

        Raises:
            DataEmpty, DataInvalid: nothing there, or not what the recipe describes.
        """
        labels = self.test.labels
        rows = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]
        if not rows:
            raise DataEmpty("the test split holds no example, so there are no public exemplars")
        return self._decode(self.test, np.concatenate(rows))

    def _test_index(self, shard: int, workers: int) -> Index:
        test = self.test
        if self._config.partition != "natural" or not isinstance(test, OwnedImages):
            return np.arange(shard, len(test.labels), workers, dtype=np.int64)
        own = set(self.owners[shard])
        is_own = np.array([name in own for name in test.owner_names], dtype=bool)
        return np.flatnonzero(is_own[test.owners])

    def _decode(self, images: LabeledImages, index: Index) -> Examples:
        pixels = images.load(index)
        want = (len(index), *self.spec.inputs.shape)
        if pixels.shape != want or pixels.dtype != np.uint8:
            raise DataInvalid(
                f'data set "{self._config.dataset}" gave images of {pixels.dtype} {pixels.shape}, '
                f"it describes them as uint8 {want}"
            )
        return Examples(pixels, images.labels[index], self._boxes(images, index))

    def _boxes(self, images: LabeledImages, index: Index) -> Boxes | None:
        if self.spec.kind != "detection":
            return None
        if not isinstance(images, BoxedImages):
            raise DataInvalid(
                f'data set "{self._config.dataset}" describes itself as of kind "detection", '
                "its split has no load_boxes()"
            )
        boxes = images.load_boxes(index)
        check_boxes(boxes, len(index), len(self.spec.classes))
        return boxes

    def _with_noise(self, examples: Examples, shard: int, workers: int) -> Examples:
        if self._config.feature_noise is None:
            return examples
        noisy = self._config.noisy_workers
        level = noise_level(self._config.feature_noise, shard, workers, noisy)
        if level == 0:
            return examples
        draws = Draws(self._seed, "noise", str(shard))
        return replace(examples, images=add_noise(examples.images, level, draws))


def load_examples(
    config: DataConfig, split: Split, *, seed: int, shard: int | None, data_dir: Path | None
) -> Examples:
    """Load one shard; whoever loads several keeps a ``Shards``, which opens the data once."""
    return Shards(config, seed=seed, data_dir=data_dir).load(split, shard)


def _checked(shard: int | None, workers: int) -> int:
    if shard is None:
        raise DataMissing(
            f"the recipe splits the data into {workers} shards: set FEDFLEET_SHARD to this "
            f"worker's, from 0 to {workers - 1}"
        )
    if not 0 <= shard < workers:
        raise DataMissing(
            f"FEDFLEET_SHARD = {shard}: the recipe makes {workers} shards, from 0 to {workers - 1}"
        )
    return shard
