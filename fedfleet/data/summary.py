"""Says who holds what: the rows of the table that ``fedfleet data describe`` prints.

Legend: W = shards (one per worker), C = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfleet.data.boxes import count_boxes
from fedfleet.data.images import Boxes, Index, Labels


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    """One shard.

    Args:
        shard: its number, from 0.
        examples: how many it holds.
        per_class: examples per class, in the order of the classes; of data with boxes its boxes.
        classes_held: classes of which it holds one.
        entropy: of its labels, in bits: 0 means one class, log2(classes) the same of each.
        skew: total variation distance from the label distribution of all shards together, in
            [0, 1]; 0 means the same mix.
        owners: the names of those whose examples it holds, where the data set has owners.
        boxes: how many its examples have, where the data set has boxes.
    """

    shard: int
    examples: int
    per_class: tuple[int, ...]
    classes_held: int
    entropy: float
    skew: float
    owners: tuple[str, ...] = ()
    boxes: int | None = None

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        return {
            "shard": self.shard,
            "examples": self.examples,
            **({} if self.boxes is None else {"boxes": self.boxes}),
            "per_class": dict(zip(classes, self.per_class, strict=True)),
            "classes_held": self.classes_held,
            "entropy": self.entropy,
            "skew": self.skew,
            **({"owners": list(self.owners)} if self.owners else {}),
        }


def describe_partition(
    labels: Labels,
    shards: Sequence[Index],
    classes: Sequence[str],
    owners: Sequence[tuple[str, ...]] | None = None,
    boxes: Boxes | None = None,
) -> list[ShardRow]:
    """Count what each shard holds.

    Args:
        labels: int64, shape (N,).
        shards: one index into the labels per worker, as ``partition`` returns them.
        classes: the labels' names.
        owners: of each shard, where the data set has owners.
        boxes: float32, shape (N, M, 5), where the data set has boxes: then they are counted, and
            not the examples, by class.
    """
    if boxes is None:
        counts = [np.bincount(labels[shard], minlength=len(classes)) for shard in shards]
    else:
        counts = [count_boxes(boxes[shard], len(classes)) for shard in shards]
    counts_WC = np.stack(counts)
    total_C = counts_WC.sum(axis=0)
    everyone_C = total_C / max(1, int(total_C.sum()))
    rows = []
    for number, counts_C in enumerate(counts_WC):
        counted = int(counts_C.sum())
        mix_C = counts_C / max(1, counted)
        rows.append(
            ShardRow(
                shard=number,
                examples=len(shards[number]),
                per_class=tuple(int(count) for count in counts_C),
                classes_held=int(np.count_nonzero(counts_C)),
                entropy=_entropy(mix_C),
                skew=float(np.abs(mix_C - everyone_C).sum() / 2),
                owners=owners[number] if owners else (),
                boxes=None if boxes is None else counted,
            )
        )
    return rows


def _entropy(mix_C: npt.NDArray[np.float64]) -> float:
    held = mix_C[mix_C > 0]
    return float(np.abs(held @ np.log2(held)))  # never -0.0
