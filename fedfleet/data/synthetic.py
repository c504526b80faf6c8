"""``synthetic``: Gaussian clouds in pixel space, for tests and latency measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfleet.data.catalog import DatasetSource, DatasetSpec, Split
from fedfleet.data.config import SyntheticOptions
from fedfleet.data.draws import Draws
from fedfleet.data.images import ArrayImages, LabeledImages
from fedfleet.types import InputSpec

_SEED = 0  # fixed: the clouds are a function of the options alone
_DARKEST, _BRIGHTEST = 48.0, 208.0  # the centres' range, off the ends so that little is clipped
_SPREAD = 20.0  # standard deviation of a cloud, in grey levels


@dataclass(frozen=True)
class Synthetic:
    """The data set: label c is drawn around the c-th centre; classes have equal shares."""

    def describe(self, options: SyntheticOptions) -> DatasetSpec:
        inputs = InputSpec(channels=1, height=1, width=options.features, mean=(0.5,), std=(0.25,))
        return DatasetSpec(inputs, tuple(f"cloud{number}" for number in range(options.classes)))

    def open(self, options: SyntheticOptions, split: Split, data_dir: Path | None) -> LabeledImages:
        """Draw a split; the test split has a quarter as many examples."""
        count = options.samples if split == "train" else options.samples // 4
        shape = (options.classes, options.features)
        centres = Draws(_SEED, "synthetic", "centres").uniforms(options.classes * options.features)
        centres = _DARKEST + (_BRIGHTEST - _DARKEST) * centres.reshape(shape)
        draws = Draws(_SEED, "synthetic", split)
        labels = draws.permutation(count) % options.classes
        noise = draws.normals(count * options.features).reshape(count, options.features)
        values = np.rint(centres[labels] + _SPREAD * noise).clip(0, 255).astype(np.uint8)
        return ArrayImages(values.reshape(count, 1, 1, options.features), labels)


SYNTHETIC: DatasetSource = Synthetic()
