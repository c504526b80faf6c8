"""``digits``: 1,797 handwritten digits of 8x8 pixels that scikit-learn carries (Alpaydin 1998)."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedfleet.data.catalog import DatasetSource, DatasetSpec, Split
from fedfleet.data.config import DigitsOptions
from fedfleet.data.draws import Draws
from fedfleet.data.images import ArrayImages, Index, LabeledImages, Labels
from fedfleet.types import InputSpec

_FILE = Path("datasets", "data", "digits.csv.gz")
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
        table = _table()
        labels = table[:, -1].astype(np.int64)
        rows = _rows(labels, split)
        pixels = table[rows, :-1].reshape(-1, 1, _INPUTS.height, _INPUTS.width)
        return ArrayImages(np.rint(pixels * (255 / _BRIGHTEST)).astype(np.uint8), labels[rows])


def _table() -> npt.NDArray[np.float64]:
    """The file that scikit-learn carries: 64 pixels and the label of each digit.

    Read where it lies: to import scikit-learn takes longer than many a run on these data.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("no scikit-learn", name="sklearn")
    path = Path(found.origin).parent / _FILE
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",")


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
