"""Splits a data set's training examples over workers: one sorted index per worker.

Every partition is disjoint, covers all examples, leaves no shard empty, and depends on the labels,
the configuration and the seed alone (see ``fedfleet.data.draws``). The gamma variates behind a
Dirichlet split go through the device's logarithm; where two devices' logarithms differ in the last
bit, one example may land in the neighbouring shard, with a chance below 1e-9 per split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedfleet.data.config import DataConfig
from fedfleet.data.draws import Draws
from fedfleet.data.images import Index, Labels
from fedfleet.errors import DataEmpty, DataInvalid, RecipeInvalid


def partition(labels: Labels, config: DataConfig, num_classes: int, seed: int) -> list[Index]:
    """Split the examples into ``config.workers`` shards (one, of all, without a partition).

    Args:
        labels: int64, shape (N,), each from 0 to num_classes - 1.

    Raises:
        DataEmpty: there are no examples.
        DataInvalid: a label is out of range.
        RecipeInvalid: the examples or classes are too few for the shards.
    """
    check_labels(labels, num_classes)
    if config.workers is None:
        return [np.arange(len(labels), dtype=np.int64)]
    if config.workers > len(labels):
        raise RecipeInvalid(
            f"data.workers = {config.workers}: the training split has {len(labels)} examples only"
        )
    draws = Draws(seed, "partition", config.partition)
    by_class = _shuffled_classes(labels, num_classes, draws)
    if config.alpha is not None:
        shards = _dirichlet(by_class, config.workers, config.alpha, draws)
        _fill_empty(shards, labels)
    elif config.classes_per_worker is not None:
        shards = _classes(by_class, config.workers, config.classes_per_worker, draws)
    else:
        shards = _iid(by_class, config.workers)
    return [np.sort(shard) for shard in shards]


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


def _classes(by_class: Sequence[Index], workers: int, each: int, draws: Draws) -> list[Index]:
    """Give each worker exactly ``each`` classes, and each class's examples evenly to its holders.

    After McMahan et al. 2017 (arXiv:1602.05629, section 3), where a worker gets two slices of the
    examples sorted by label; those may straddle classes, these do not.
    """
    present = [label for label, members in enumerate(by_class) if len(members)]
    field = f"data.classes_per_worker = {each}"
    if each > len(present):
        raise RecipeInvalid(f"{field}: the training split has {len(present)} classes only")
    if each * workers < len(present):
        raise RecipeInvalid(
            f"{field}: {workers} workers would hold {each * workers} of the {len(present)} classes "
            f"and leave the others out; raise it or data.workers"
        )
    parts: list[list[Index]] = [[] for _ in range(workers)]
    for label, holders in zip(present, _holders(len(present), workers, each, draws), strict=True):
        members = by_class[label]
        if len(members) < len(holders):
            raise RecipeInvalid(
                f"{field}: class {label} has {len(members)} examples for {len(holders)} workers"
            )
        for place, worker in enumerate(holders):
            parts[worker].append(members[place :: len(holders)])
    return [np.concatenate(part) for part in parts]


def _holders(classes: int, workers: int, each: int, draws: Draws) -> list[list[int]]:
    """Choose which workers hold each class.

    Every worker takes the classes with the most places left, ties at random. Places per class
    differ by at most one, and taking the fullest first never leaves a worker short (Gale 1957).
    """
    places, spare = divmod(workers * each, classes)
    left = np.full(classes, places)
    left[draws.permutation(classes)[:spare]] += 1
    holders: list[list[int]] = [[] for _ in range(classes)]
    for worker in range(workers):
        ties = draws.permutation(classes)
        for label in ties[np.argsort(-left[ties], kind="stable")][:each]:
            left[label] -= 1
            holders[label].append(worker)
    return holders
