"""Gives each worker a fixed number of classes, and every example to somebody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedfleet.data.draws import Draws
from fedfleet.data.images import Index
from fedfleet.errors import RecipeInvalid


def by_classes(by_class: Sequence[Index], workers: int, each: int, draws: Draws) -> list[Index]:
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
