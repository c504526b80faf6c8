"""``digits``: 1,797 handwritten digits of 8x8 pixels that scikit-learn carries (Alpaydin 1998)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from fedfleet.data.catalog import DatasetSource, DatasetSpec, Split
from fedfleet.data.config import DigitsOptions
from fedfleet.data.draws import Draws
from fedfleet.data.images import ArrayImages, Index, LabeledImages, Labels
from fedfleet.types import InputSpec

_BRIGHTEST = 16  # the set's own pixels go from 0 to 16
_SPLIT_SEED = 0  # fixed: the split is part of what this data set is
_TEST_FRACTION = 0.2

# Mean and standard deviation of the training split's pixels.
_INPUTS = InputSpec(channels=1, height=8, width=8, mean=(0.3055,), std=(0.3761,))


@dataclass(frozen=True)
class Digits:
    """The data set; a fifth of every class is the test split."""

    def describe(self, options: DigitsOptions) -> DatasetSpec:
        return DatasetSpec(_INPUTS, tuple(str(digit) for digit in range(10)))

    def open(self, options: DigitsOptions, split: Split, data_dir: Path | None) -> LabeledImages:
        """Open a split; reads the installed package, never the data folder."""
        bunch = load_digits()
        labels = bunch.target.astype(np.int64)
        rows = _rows(labels, split)
        images = np.rint(bunch.images[rows] * (255 / _BRIGHTEST)).astype(np.uint8)
        return ArrayImages(images[:, np.newaxis], labels[rows])


def _rows(labels: Labels, split: Split) -> Index:
    """The rows of a split, in random order, stratified by class."""
    draws = Draws(_SPLIT_SEED, "digits")
    order = draws.permutation(len(labels))
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        members = order[labels[order] == digit]
        is_test[members[: round(_TEST_FRACTION * len(members))]] = True
    # Drawn again, since the first order has all test rows in front.
    order = draws.permutation(len(labels))
    chosen: Index = order[is_test[order] == (split == "test")]
    return chosen


DIGITS: DatasetSource = Digits()
