"""Which data set a run trains on and how a benchmark set is split over the workers; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


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


BUILT_IN: Mapping[str, type] = {
    "digits": DigitsOptions,
    "cifar10": CifarOptions,
    "cifar100": CifarOptions,
    "folder": FolderOptions,
    "shakespeare": ShakespeareOptions,
    "synthetic": SyntheticOptions,
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
