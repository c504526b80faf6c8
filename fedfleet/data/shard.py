"""The examples that one worker, or the coordinator's evaluation, works on.

Legend: n = examples, C = channels, H, W = size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfleet.data.catalog import Split, describe, open_dataset
from fedfleet.data.config import DataConfig
from fedfleet.data.images import Index, Labels, Pixels
from fedfleet.data.partition import partition
from fedfleet.errors import DataEmpty, DataInvalid, DataMissing


@dataclass(frozen=True, eq=False)
class Examples:
    """Decoded images with their labels. Not to be mutated.

    Args:
        images: uint8, shape (n, C, H, W).
        labels: int64, shape (n,).
    """

    images: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Index) -> Examples:
        """The examples at an index, in its order."""
        return Examples(self.images[index], self.labels[index])


def load_examples(
    config: DataConfig, split: Split, *, seed: int, shard: int | None, data_dir: Path | None
) -> Examples:
    """Load a shard: of the partition for training, every ``workers``-th row for test.

    Args:
        seed: the recipe's, from which the partition is drawn.
        shard: which one, from 0; None is the whole test split, for the coordinator. Without a
            partition the device's data are its own and the shard has no meaning.

    Raises:
        DataMissing: no such shard, or none named where the recipe partitions the data.
        DataEmpty, DataInvalid: nothing there, or not what the recipe describes.
    """
    spec = describe(config)
    images = open_dataset(config, split, data_dir)
    if config.workers is None or (shard is None and split == "test"):
        index = np.arange(len(images.labels), dtype=np.int64)
    else:
        number = _checked(shard, config.workers)
        if split == "train":
            index = partition(images.labels, config, len(spec.classes), seed)[number]
        else:
            index = np.arange(number, len(images.labels), config.workers, dtype=np.int64)
    if len(index) == 0:
        raise DataEmpty(f"shard {shard} of the {split} split holds no example")
    inputs = spec.inputs
    pixels = images.load(index)
    want = (len(index), inputs.channels, inputs.height, inputs.width)
    if pixels.shape != want or pixels.dtype != np.uint8:
        raise DataInvalid(
            f'data set "{config.dataset}" gave images of {pixels.dtype} {pixels.shape}, '
            f"it describes them as uint8 {want}"
        )
    return Examples(pixels, images.labels[index])


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
