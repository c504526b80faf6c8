"""Which data set a run trains on and how a benchmark set is split over the workers; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedfleet.types import is_name

MAX_CLASS_NAME = 100  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitsOptions:
    """``digits``: scikit-learn's 8x8 handwritten digits, carried by the package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CifarOptions:
    """``cifar10`` and ``cifar100``.

    Args:
        download: let torchvision fetch the set when the data folder does not hold it.
        samples: only the first so many training examples, for quick experiments; absent means all.
    """

    download: bool = False
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples = {self.samples}: must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOptions:
    """``folder``: a tree of class folders of images, ``train/CLASS/*`` and ``test/CLASS/*``.

    Args:
        classes: the labels in order; every worker must name the same ones.
        image_size: side in pixels that images are resized to.
        channels: 1 (grey) or 3 (colour).
    """

    classes: tuple[str, ...]
    image_size: int = 32
    channels: int = 3

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes = {list(self.classes)}: needs two or more different names")
        for name in self.classes:
            # A recipe comes from elsewhere: a name must not lead out of the data folder.
            if not name or name.startswith(".") or set(name) & set("/\\\0"):
                raise ValueError(f"classes: {name!r} cannot be the name of a class folder")
        if not 4 <= self.image_size <= 1024:
            raise ValueError(f"image_size = {self.image_size}: must be from 4 to 1024")
        if self.channels not in (1, 3):
            raise ValueError(f"channels = {self.channels}: must be 1 or 3")


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoOptions:
    """``coco``: images with boxes in a COCO JSON file.

    Args:
        classes: the categories to find, in the order of the labels; every worker must name the
            same ones. Boxes of other categories are left out.
        image_size: side in pixels that images are scaled to.
        train, test: names of the two sets in the data folder: the images lie in ``NAME/``, their
            boxes in ``annotations/instances_NAME.json`` or ``NAME/_annotations.coco.json``.
    """

    classes: tuple[str, ...]
    image_size: int = 320
    train: str = "train"
    test: str = "test"

    def __post_init__(self) -> None:
        _check_boxed(self.classes, self.image_size, self.train, self.test)
        for field in ("train", "test"):
            name = getattr(self, field)
            if not is_name(name) or name.startswith("."):
                raise ValueError(f"{field} = {name!r}: cannot be the name of a set of images")


@dataclass(frozen=True, kw_only=True, slots=True)
class VocOptions:
    """``voc``: images with boxes in the folders of Pascal VOC.

    Args:
        classes: as of ``coco``.
        image_size: as of ``coco``.
        train, test: the lists of ``ImageSets/Main`` that name the images of each split.
    """

    classes: tuple[str, ...]
    image_size: int = 320
    train: Literal["train", "trainval", "val", "test"] = "trainval"
    test: Literal["train", "trainval", "val", "test"] = "test"

    def __post_init__(self) -> None:
        _check_boxed(self.classes, self.image_size, self.train, self.test)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShakespeareOptions:
    """``shakespeare``: which character follows; each speaking role is an owner.

    Args:
        sequence: characters of an example.
        min_samples: roles with fewer training examples are left out (LEAF's ``-k``).
        max_samples: at most so many training examples of a role, evenly spaced over its text, and
            of its test examples in proportion; absent means all of them.
        test_fraction: share of each role's text, its end, that is for test; where LEAF's files
            are split already, theirs is used.
    """

    sequence: int = 80
    min_samples: int = 64
    max_samples: int | None = None
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.sequence <= 4096:
            raise ValueError(f"sequence = {self.sequence}: must be from 1 to 4096")
        if self.min_samples < 1:
            raise ValueError(f"min_samples = {self.min_samples}: must be 1 or more")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples = {self.max_samples}: must be 1 or more")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction = {self.test_fraction}: must be between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapesOptions:
    """``shapes``: coloured shapes on textured ground, generated, to train a detector on.

    Args:
        samples: training images; a quarter as many test images come on top.
        image_size: side in pixels.
        most: shapes of an image at most.
    """

    samples: int = 2000
    image_size: int = 128
    most: int = 4

    def __post_init__(self) -> None:
        if self.samples < 4:
            raise ValueError(f"samples = {self.samples}: must be 4 or more")
        if not 32 <= self.image_size <= 1024:
            raise ValueError(f"image_size = {self.image_size}: must be from 32 to 1024")
        if not 1 <= self.most <= 16:
            raise ValueError(f"most = {self.most}: must be from 1 to 16")


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticOptions:
    """``synthetic``: Gaussian clouds, one per class, for tests and latency measurements.

    Args:
        samples: training examples in all; a quarter as many test examples come on top.
        features: values per example (an image of 1 x 1 x features).
        classes: number of clouds.
    """

    samples: int = 400
    features: int = 4
    classes: int = 2

    def __post_init__(self) -> None:
        for name, least in (("samples", 4), ("features", 1), ("classes", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: must be {least} or more")


def _check_boxed(classes: tuple[str, ...], image_size: int, train: str, test: str) -> None:
    """What is asked of every set of images with boxes that lies on disk."""
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes = {list(classes)}: needs one or more different names")
    for name in classes:
        if not name or not name.isprintable() or len(name) > MAX_CLASS_NAME:
            raise ValueError(
                f"classes: {name[:MAX_CLASS_NAME]!r} cannot be the name of a class; take 1 to "
                f"{MAX_CLASS_NAME} printable characters"
            )
    if not 32 <= image_size <= 1024:
        raise ValueError(f"image_size = {image_size}: must be from 32 to 1024")
    if train == test:
        raise ValueError(f'test = "{test}": must be another set than train')


BUILT_IN: Mapping[str, type] = {
    "digits": DigitsOptions,
    "cifar10": CifarOptions,
    "cifar100": CifarOptions,
    "coco": CocoOptions,
    "folder": FolderOptions,
    "shakespeare": ShakespeareOptions,
    "shapes": ShapesOptions,
    "synthetic": SyntheticOptions,
    "voc": VocOptions,
}

# Beyond these a Dirichlet split is one class per shard, or even, to within a rounding error.
MIN_ALPHA = 0.001
MAX_ALPHA = 1_000_000

# The fields that only some partitions have; each of those needs it.
_OF_PARTITION: Mapping[str, tuple[str, ...]] = {
    "alpha": ("dirichlet", "quantity", "pachinko"),
    "fine_alpha": ("pachinko",),
    "classes_per_worker": ("classes",),
    "shards_per_worker": ("shards",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A data set and its partition.

    Args:
        dataset: a built-in one, or an entry point in the group ``fedfleet.datasets``.
        options: an instance of the data set's options class; for a plug-in a mapping. Any, because
            a plug-in chooses its own types.
        partition: ``iid`` (balanced per class), ``dirichlet`` (label skew of strength alpha),
            ``classes`` (classes_per_worker shards), ``shards`` (slices of the examples sorted by
            label), ``quantity`` (sizes skewed by alpha, labels alike), ``natural`` (by the data
            set's own owners), ``pachinko`` (label skew by groups of classes, then by class), or
            ``none``: the worker's data are its own.
        workers: number of shards; a worker holds shard FEDFLEET_SHARD, counted from 0.
        alpha: Dirichlet concentration, from 0.001 to 1,000,000; small is skewed. With
            ``pachinko`` that of the groups.
        fine_alpha: the same of the classes within a group, with ``pachinko``.
        classes_per_worker: classes of which each worker holds examples, with ``classes``.
        shards_per_worker: slices that each worker takes, with ``shards``.
        feature_noise: standard deviation of Gaussian noise on the training images, as a share of
            the pixels' range, of the last worker; that of worker i of N is i / N of it, i from 1.
        noisy_workers: with feature_noise, how many workers have noise, the last ones; it grows over
            them as over all. Absent means all.
    """

    dataset: str
    options: Any
    partition: Literal[
        "iid", "dirichlet", "classes", "shards", "quantity", "natural", "pachinko", "none"
    ] = "none"
    workers: int | None = None
    alpha: float | None = None
    fine_alpha: float | None = None
    classes_per_worker: int | None = None
    shards_per_worker: int | None = None
    feature_noise: float | None = None
    noisy_workers: int | None = None

    def __post_init__(self) -> None:
        if self.partition == "none" and self.workers is not None:
            raise ValueError('workers: has no meaning with partition = "none"')
        if self.partition != "none" and self.workers is None:
            raise ValueError(f'workers: partition = "{self.partition}" needs the number of shards')
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers = {self.workers}: must be 1 or more")
        for name, owners in _OF_PARTITION.items():
            _only_with(name, getattr(self, name), self.partition, owners)
        for name in ("alpha", "fine_alpha"):
            value = getattr(self, name)
            if value is not None and not MIN_ALPHA <= value <= MAX_ALPHA:
                raise ValueError(f"{name} = {value}: must be from {MIN_ALPHA} to {MAX_ALPHA}")
        for name in ("classes_per_worker", "shards_per_worker"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: must be 1 or more")
        self._check_noise()

    def _check_noise(self) -> None:
        noise, noisy = self.feature_noise, self.noisy_workers
        if noise is None:
            if noisy is not None:
                raise ValueError(f"noisy_workers = {noisy}: has no meaning without feature_noise")
            return
        if self.partition == "none":
            raise ValueError(f'feature_noise = {noise}: has no meaning with partition = "none"')
        if not 0 < noise <= 1:
            raise ValueError(f"feature_noise = {noise}: must be above 0, at most 1")
        if noisy is not None and not 1 <= noisy <= (self.workers or 0):
            raise ValueError(f"noisy_workers = {noisy}: must be from 1 to workers ({self.workers})")


def _only_with(name: str, value: float | None, partition: str, owners: tuple[str, ...]) -> None:
    """Refuse a setting that would be ignored, and a missing one that is needed."""
    if value is None and partition in owners:
        raise ValueError(f'{name}: partition = "{partition}" needs it')
    if value is not None and partition not in owners:
        raise ValueError(f'{name} = {value}: has no meaning with partition = "{partition}"')
