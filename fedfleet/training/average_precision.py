"""The mean average precision of a detector, as COCO defines it, by torchmetrics; the one module
that imports it, found by name so that workers need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedfleet.models.torchvision_ops import ensure_torchvision_ops
from fedfleet.training.detection_evaluation import Seen

ensure_torchvision_ops()
# torchmetrics imports torchvision, which fails without the line above.
import pycocotools  # noqa: E402, F401
from torchmetrics.detection import MeanAveragePrecision  # noqa: E402


def average_precisions(seen: Sequence[Seen], classes: Sequence[str]) -> dict[str, float]:
    """``map50`` (at an overlap of 0.5), ``map`` (mean over 0.5 to 0.95), ``ap50/CLASS``.

    A class of which no image has a box has no precision and is left out. Ignored regions are what
    COCO calls crowds.
    """
    metric: Any = MeanAveragePrecision(backend="pycocotools", extended_summary=True)
    metric.warn_on_many_detections = False
    metric.update([_answered(one) for one in seen], [_truth(one) for one in seen])
    result: Any = metric.compute()
    # Overlaps, places on the curve, classes, sizes (the first: all), answers (the last: 100).
    precision_TRK: Tensor = result["precision"][:, :, :, 0, -1]
    scores = {"map50": float(result["map_50"]), "map": float(result["map"])}
    for place, label in enumerate(result["classes"].reshape(-1).tolist()):
        scores[f"ap50/{classes[label]}"] = float(precision_TRK[0, :, place].mean())
    return {name: value for name, value in scores.items() if value >= 0}


def _answered(one: Seen) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor([answer.box for answer in one.answered]).reshape(-1, 4),
        "scores": torch.tensor([answer.score for answer in one.answered]),
        "labels": torch.tensor([answer.index for answer in one.answered], dtype=torch.int64),
    }


def _truth(one: Seen) -> dict[str, Tensor]:
    rows = torch.from_numpy(np.concatenate([one.truth, one.ignored]))
    return {
        "boxes": rows[:, 1:],
        "labels": rows[:, 0].long(),
        "iscrowd": torch.arange(len(rows)) >= len(one.truth),
    }
