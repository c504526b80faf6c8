"""The data sets by name: the one place where a new built-in is entered.

A built-in is named as an entry point names it and imported when it is first used, so that a worker
with a folder of images loads neither scikit-learn nor pyarrow.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fedfleet import plugins
from fedfleet.data.config import BUILT_IN, DataConfig
from fedfleet.data.images import LabeledImages
from fedfleet.data.partition import check_labels
from fedfleet.errors import DataInvalid, RecipeInvalid, UnknownDataset
from fedfleet.tables import suggest
from fedfleet.types import InputSpec

Split = Literal["train", "test"]

SOURCES: Mapping[str, str] = {
    "cifar10": "fedfleet.data.cifar:CIFAR10",
    "cifar100": "fedfleet.data.cifar:CIFAR100",
    "coco": "fedfleet.data.coco:COCO",
    "digits": "fedfleet.data.digits:DIGITS",
    "folder": "fedfleet.data.folder:FOLDER",
    "shakespeare": "fedfleet.data.shakespeare:SHAKESPEARE",
    "shapes": "fedfleet.data.shapes:SHAPES",
    "synthetic": "fedfleet.data.synthetic:SYNTHETIC",
    "voc": "fedfleet.data.voc:VOC",
}


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set without having it.

    Args:
        classes: label names, in the order of the label numbers.
        groups: the group that each class belongs to, from 0, where the classes come in groups.
        kind: ``detection`` where the splits have boxes (``images.BoxedImages``).
    """

    inputs: InputSpec
    classes: tuple[str, ...]
    groups: tuple[int, ...] | None = None
    kind: Literal["classification", "detection"] = "classification"


class DatasetSource(Protocol):
    """A data set, built in or a plug-in's (entry point group ``fedfleet.datasets``).

    The options are those of the recipe's ``[data]`` table: a built-in's options class, or a
    mapping for a plug-in. Any, because each data set has its own.
    """

    def describe(self, options: Any) -> DatasetSpec:
        """Say what the data set is, without reading it.

        Raises:
            ValueError: an option is wrong; the text names it.
        """

    def open(self, options: Any, split: Split, data_dir: Path | None) -> LabeledImages:
        """Open a split; decode nothing yet.

        Args:
            data_dir: the device's data folder, None where it has none.
        """


def describe(config: DataConfig) -> DatasetSpec:
    """Say what the configured data set is; needs no data on disk.

    Raises:
        UnknownDataset: neither built in nor an installed plug-in that can be used.
        DataInvalid: a plug-in refuses its options or describes nothing usable.
        RecipeInvalid: the data are text, to which noise cannot be added.
    """
    source = _source(config.dataset)
    try:
        spec = source.describe(config.options)
    except ValueError as error:
        raise DataInvalid(f'data set "{config.dataset}": {error}') from error
    if not isinstance(spec, DatasetSpec):
        raise DataInvalid(f'data set "{config.dataset}": describe() must return a DatasetSpec')
    if spec.inputs.is_tokens and config.feature_noise is not None:
        raise RecipeInvalid(
            f"data.feature_noise = {config.feature_noise:g}: is added to images, "
            f'data set "{config.dataset}" holds text; leave it out'
        )
    return spec


def open_dataset(config: DataConfig, split: Split, data_dir: Path | None) -> LabeledImages:
    """Open a split of the configured data set and check its labels.

    Raises:
        UnknownDataset: as ``describe``.
        DataMissing, DataEmpty, DataInvalid: the files are not there, hold nothing, or are not
            what the configuration describes.
    """
    images = _source(config.dataset).open(config.options, split, data_dir)
    check_labels(images.labels, len(describe(config).classes))
    return images


def _source(name: str) -> DatasetSource:
    if name in SOURCES:
        built_in: DatasetSource = pkgutil.resolve_name(SOURCES[name])
        return built_in
    try:
        plugin = plugins.load(plugins.DATASETS, name)
    except KeyError:
        known = suggest(name, [*BUILT_IN, *plugins.names(plugins.DATASETS)])
        raise UnknownDataset(f'dataset = "{name}": not installed here; {known}') from None
    except (ImportError, AttributeError) as error:
        raise UnknownDataset(f'the plug-in "{name}" cannot be imported: {error}') from error
    for method in ("describe", "open"):
        if not callable(getattr(plugin, method, None)):
            raise UnknownDataset(f'the plug-in "{name}" has no {method}(); see docs/plugins.md')
    source: DatasetSource = plugin
    return source
