"""A data set of FedFleet whose examples are the files that work.py writes: what peers read too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.data.catalog import DatasetSpec, Split
from fedfleet.data.cifar import CIFAR10
from fedfleet.data.config import CifarOptions
from fedfleet.data.images import ArrayImages, LabeledImages
from fedfleet.errors import DataMissing


class Prepared:
    """CIFAR-10, decoded."""

    def describe(self, options: Mapping[str, Any]) -> DatasetSpec:
        return CIFAR10.describe(CifarOptions())

    def open(
        self, options: Mapping[str, Any], split: Split, data_dir: Path | None
    ) -> LabeledImages:
        if data_dir is None:
            raise DataMissing("prepared: --data-dir names the folder that work.py wrote")
        images = np.load(data_dir / f"{split}-images.npy", mmap_mode="r")
        return ArrayImages(images, np.load(data_dir / f"{split}-labels.npy"))


PREPARED = Prepared()
