"""Splits examples by the pachinko allocation (Reddi et al. 2021, arXiv:2003.00295, appendix F).

Each worker draws a mix of the groups of classes, and within each group a mix of its classes; then
its examples one by one, without putting any back. Where a class runs out, the others of its group
share what it had; where a group runs out, the other groups do. All shards have the same size to
within one example, which is how every example is given to somebody.

Legend: C = classes, G = groups of classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedfleet.data.draws import Draws
from fedfleet.data.images import Index
from fedfleet.errors import DataInvalid

Shares = npt.NDArray[np.float64]


def pachinko(
    by_class: Sequence[Index],
    groups: Sequence[int],
    workers: int,
    alpha: float,
    fine_alpha: float,
    draws: Draws,
) -> list[Index]:
    """Split the examples; the paper has alpha 0.1 and fine_alpha 10 on CIFAR-100.

    Args:
        by_class: the examples of each class, in random order.
        groups: the group of each class, from 0.

    Raises:
        DataInvalid: there is not one group per class.
    """
    group_C = np.array(groups, dtype=np.int64)
    if len(group_C) != len(by_class) or group_C.min() < 0:
        raise DataInvalid(f"{len(group_C)} classes have a group, there are {len(by_class)} classes")
    left_C = np.array([len(members) for members in by_class])
    size, larger = divmod(int(left_C.sum()), workers)
    shards = []
    for worker in range(workers):
        group_G = draws.dirichlet(alpha, int(group_C.max()) + 1)
        fine_C = np.empty(len(group_C))
        for group in range(len(group_G)):
            members = np.flatnonzero(group_C == group)
            fine_C[members] = draws.dirichlet(fine_alpha, len(members)) if len(members) else 0.0
        wanted = size + (worker < larger)
        shards.append(_take(by_class, left_C, wanted, (group_C, group_G, fine_C), draws))
    return shards


def _take(
    by_class: Sequence[Index],
    left_C: Index,
    wanted: int,
    tree: tuple[Index, Shares, Shares],
    draws: Draws,
) -> Index:
    """Draw one worker's examples; takes them off ``left_C``."""
    taken: list[int] = []
    while len(taken) < wanted:
        share_C = _mix(left_C, *tree)
        ends_C = np.cumsum(share_C)
        drawn = np.searchsorted(
            ends_C, draws.uniforms(wanted - len(taken)) * ends_C[-1], side="right"
        )
        # A draw that rounding puts on the very end belongs to the last class that has a share.
        for label in np.minimum(drawn, np.flatnonzero(share_C)[-1]):
            left_C[label] -= 1
            taken.append(int(by_class[label][left_C[label]]))
            if not left_C[label]:
                break  # the shares have changed
    return np.array(taken, dtype=np.int64)


def _mix(left_C: Index, group_C: Index, group_G: Shares, fine_C: Shares) -> Shares:
    """The chance of each class, over what is left."""
    has_left_C = left_C > 0
    fine_C = _shared(fine_C, has_left_C, group_C)
    has_left_G = np.bincount(group_C[has_left_C], minlength=len(group_G)) > 0
    group_G = _shared(group_G, has_left_G, np.zeros(len(group_G), np.int64))
    mix_C: Shares = group_G[group_C] * fine_C
    return mix_C


def _shared(shares: Shares, has_left: npt.NDArray[np.bool_], family: Index) -> Shares:
    """Shares over what is left, adding up to 1 in each family; equal where all rounded to 0."""
    kept = shares * has_left
    total = np.bincount(family, kept)[family]
    kept = np.where(total > 0, kept, has_left)
    total = np.bincount(family, kept)[family]
    even: Shares = kept / np.where(total > 0, total, 1.0)
    return even
