"""``cifar10`` and ``cifar100`` (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfleet.data.catalog import DatasetSource, DatasetSpec, Split
from fedfleet.data.config import CifarOptions
from fedfleet.data.images import FirstImages, LabeledImages
from fedfleet.data.parquet import ParquetImages
from fedfleet.errors import DataMissing
from fedfleet.types import InputSpec

IMAGE_COLUMN = "img"
# Resolved only when asked for: the download needs torch, reading does not.
_DOWNLOAD = "fedfleet.data.cifar_download:download"


@dataclass(frozen=True)
class Cifar:
    """One of the two sets, in ``DATA_DIR/NAME/`` in the layout of the Hugging Face hub.

    Args:
        mean, std: of the training split per channel, as published.
        classes: in the order of the labels.
        groups: the coarse class of each class, where there are any.
    """

    name: str
    label_column: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    groups: tuple[int, ...] | None = None

    def describe(self, options: CifarOptions) -> DatasetSpec:
        inputs = InputSpec(channels=3, height=32, width=32, mean=self.mean, std=self.std)
        return DatasetSpec(inputs, self.classes, self.groups)

    def open(self, options: CifarOptions, split: Split, data_dir: Path | None) -> LabeledImages:
        """Open a split, fetching the set first where it is absent and the options say so."""
        if data_dir is None:
            raise DataMissing(
                f"{self.name}: set FEDFLEET_DATA_DIR (or --data-dir) to the folder that holds "
                f"{self.name}/"
            )
        folder = data_dir / self.name
        if not folder.is_dir():
            if not options.download:
                raise DataMissing(
                    f"the data folder holds no {self.name}/; put the set's Parquet files there, "
                    "or set data.download = true"
                )
            # Any: a function found by name.
            download: Any = pkgutil.resolve_name(_DOWNLOAD)
            download(self.name, data_dir, label_column=self.label_column)
        images = ParquetImages(
            folder,
            split,
            image_column=IMAGE_COLUMN,
            label_column=self.label_column,
            inputs=self.describe(options).inputs,
        )
        if split == "test" or options.samples is None:
            return images
        return FirstImages(images, options.samples)


CIFAR10: DatasetSource = Cifar(
    name="cifar10",
    label_column="label",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
)

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

# The coarse class of each: 20 groups of 5, as the set's own coarse labels have them.
_CIFAR100_GROUPS = """
4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5
5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13
15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
"""

CIFAR100: DatasetSource = Cifar(
    name="cifar100",
    label_column="fine_label",
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    classes=tuple(_CIFAR100_CLASSES.split()),
    groups=tuple(int(group) for group in _CIFAR100_GROUPS.split()),
)
