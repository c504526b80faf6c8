"""Splits a data set's training examples over workers: one sorted index per worker.

Every partition is disjoint, covers all examples, leaves no shard empty, and depends on the labels,
the configuration and the seed alone (see ``fedfleet.data.draws``). The gamma variates behind a
Dirichlet split go through the device's logarithm; where two devices' logarithms differ in the last
bit, one example may land in the neighbouring shard, with a chance below 1e-9 per split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from fedfleet.data.class_split import by_classes
from fedfleet.data.config import DataConfig
from fedfleet.data.draws import Draws
from fedfleet.data.images import Index, Labels
from fedfleet.data.pachinko import pachinko
from fedfleet.errors import DataEmpty, DataInvalid, RecipeInvalid

T = TypeVar("T")


def partition(
    labels: Labels,
    config: DataConfig,
    num_classes: int,
    seed: int,
    *,
    groups: Sequence[int] | None = None,
    owners: Index | None = None,
) -> list[Index]:
    """Split the examples into ``config.workers`` shards (one, of all, without a partition).

    Args:
        labels: int64, shape (N,), each from 0 to num_classes - 1.
        groups: of each class, for ``pachinko``; None where the data set has none.
        owners: of each example, int64, shape (N,), for ``natural``; None where nobody owns them.

    Raises:
        DataEmpty: there are no examples.
        DataInvalid: a label is out of range.
        RecipeInvalid: the examples, classes or owners are too few for the shards, or the data set
            has no groups or owners.
    """
    check_labels(labels, num_classes)
    if config.workers is None:
        return [np.arange(len(labels), dtype=np.int64)]
    if config.workers > len(labels):
        raise RecipeInvalid(
            f"data.workers = {config.workers}: the training split has {len(labels)} examples only"
        )
    draws = Draws(seed, "partition", config.partition)
    if config.partition == "natural":
        shards = _natural(_present(owners, config, "owners"), config.workers, draws)
    else:
        by_class = _shuffled_classes(labels, num_classes, draws)
        shards = _by_class(by_class, config, config.workers, draws, groups)
        _fill_empty(shards, labels)
    return [np.sort(shard) for shard in shards]


def _present(part: T | None, config: DataConfig, what: str) -> T:
    if part is None:
        raise RecipeInvalid(
            f'data.partition = "{config.partition}": data set "{config.dataset}" has no {what}'
        )
    return part


def _by_class(
    by_class: Sequence[Index],
    config: DataConfig,
    workers: int,
    draws: Draws,
    groups: Sequence[int] | None,
) -> list[Index]:
    """The partitions that look at labels; which one, its own fields tell."""
    if config.alpha is not None and config.fine_alpha is not None:
        known = _present(groups, config, "groups of classes")
        return pachinko(by_class, known, workers, config.alpha, config.fine_alpha, draws)
    if config.alpha is not None:
        split = _quantity if config.partition == "quantity" else _dirichlet
        return split(by_class, workers, config.alpha, draws)
    if config.classes_per_worker is not None:
        return by_classes(by_class, workers, config.classes_per_worker, draws)
    if config.shards_per_worker is not None:
        return _shards(by_class, workers, config.shards_per_worker, draws)
    return _iid(by_class, workers)


def check_labels(labels: Labels, num_classes: int) -> None:
    """Refuse labels that are none, or are not numbers of classes.

    Raises:
        DataEmpty: there are none.
        DataInvalid: wrong shape or dtype, or a label out of range.
    """
    if labels.ndim != 1 or labels.dtype != np.int64:
        raise DataInvalid(f"labels must be int64 of shape (N,), not {labels.dtype} {labels.shape}")
    if len(labels) == 0:
        raise DataEmpty("the data hold no example")
    if labels.min() < 0 or labels.max() >= num_classes:
        odd = int(labels.min() if labels.min() < 0 else labels.max())
        raise DataInvalid(f"label {odd} is out of range: there are {num_classes} classes, from 0")


def _shuffled_classes(labels: Labels, num_classes: int, draws: Draws) -> list[Index]:
    """The examples of each class in random order."""
    order = draws.permutation(len(labels))
    return [order[labels[order] == label] for label in range(num_classes)]


def _iid(by_class: Sequence[Index], workers: int) -> list[Index]:
    """Deal the classes out one after the other: no two shards differ by more than one example
    in any class, nor in all.
    """
    order = np.concatenate(by_class)
    return [order[worker::workers] for worker in range(workers)]


def _dirichlet(by_class: Sequence[Index], workers: int, alpha: float, draws: Draws) -> list[Index]:
    """Split each class by shares drawn from Dirichlet(alpha) (Yurochkin et al. 2019,
    arXiv:1905.12022, section 4), which skews both the labels and the sizes of the shards.
    """
    parts: list[list[Index]] = [[] for _ in range(workers)]
    for members in by_class:
        shares = draws.dirichlet(alpha, workers)
        ends = np.floor(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for part, cut in zip(parts, np.split(members, ends), strict=True):
            part.append(cut)
    return [np.concatenate(part) for part in parts]


def _quantity(by_class: Sequence[Index], workers: int, alpha: float, draws: Draws) -> list[Index]:
    """Cut the examples in random order into shards whose sizes are drawn from Dirichlet(alpha)
    (Li et al. 2022, arXiv:2102.02079, section 4.3): the labels' mix is everybody's.
    """
    order = np.concatenate(by_class)
    order = order[draws.permutation(len(order))]
    shares = draws.dirichlet(alpha, workers)
    ends = np.floor(np.cumsum(shares)[:-1] * len(order)).astype(np.int64)
    return np.split(order, ends)


def _shards(by_class: Sequence[Index], workers: int, each: int, draws: Draws) -> list[Index]:
    """Sort by label, cut into equal slices, give each worker ``each`` of them (McMahan et al.
    2017, arXiv:1602.05629, section 3). A slice may straddle two classes.
    """
    order = np.concatenate(by_class)
    if each * workers > len(order):
        raise RecipeInvalid(
            f"data.shards_per_worker = {each}: {workers} workers would take {each * workers} "
            f"slices of {len(order)} examples"
        )
    slices = np.array_split(order, each * workers)
    dealt = draws.permutation(len(slices)).reshape(workers, each)
    return [np.concatenate([slices[number] for number in row]) for row in dealt]


def _natural(owners: Index, workers: int, draws: Draws) -> list[Index]:
    holder_of = deal_owners(int(owners.max()) + 1, workers, draws)
    return [np.flatnonzero(holder_of[owners] == worker) for worker in range(workers)]


def deal_owners(owners: int, workers: int, draws: Draws) -> Index:
    """Deal owners out to workers at random, all of an owner's examples to one worker.

    Returns:
        The worker of each owner, int64, shape (owners,); their numbers differ by at most one.

    Raises:
        RecipeInvalid: there are more workers than owners.
    """
    if workers > owners:
        raise RecipeInvalid(
            f"data.workers = {workers}: the training split belongs to {owners} owners only"
        )
    return draws.permutation(owners) % workers


def _fill_empty(shards: list[Index], labels: Labels) -> None:
    """Give each empty shard one example of the largest shard's commonest class.

    Papers draw again until every shard has enough, which for a small alpha may never end. This
    ends always, since there are as many examples as shards, and changes the drawn skew least.
    """
    for empty in [worker for worker, shard in enumerate(shards) if len(shard) == 0]:
        largest = max(range(len(shards)), key=lambda worker: len(shards[worker]))
        donor = shards[largest]
        commonest = int(np.bincount(labels[donor]).argmax())
        place = int(np.flatnonzero(labels[donor] == commonest)[0])
        shards[empty] = donor[place : place + 1]
        shards[largest] = np.delete(donor, place)
