"""Makes ``import torchvision`` work beside a torch that its compiled library does not fit.

The registry's torchvision for Linux is compiled for CUDA. Beside a CPU-only torch its library
does not load, and its import then fails with "operator torchvision::nms does not exist", although
no classification network needs detection operators. Detectors need one of them, which is here.

Legend: N = boxes.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# The operators for which torchvision registers shapes when it is imported, native or not.
_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def ensure_torchvision_ops() -> None:
    """Supply torchvision's missing operators; leave real ones, and a second call, alone.

    Must run before torchvision is imported. ``nms`` is then ``suppress``, on every device, and
    torchvision believes that it has its operators; calling another one than ``nms`` fails.
    """
    if "torchvision" in sys.modules or sys.platform != "linux":
        return
    _load_native_operators()
    missing = [name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name)]
    for name in missing:
        torch.library.define(f"torchvision::{name}", _SIGNATURE)
    if "nms" in missing:
        torch.library.impl("torchvision::nms", "default", suppress)
        # Only now: while it is imported, torchvision has to know that the others are not there.
        extension = importlib.import_module("torchvision.extension")
        extension._has_ops = lambda: True  # type: ignore[attr-defined]


def suppress(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep boxes that overlap no better one: torchvision's ``nms``, in its order and arithmetic.

    Args:
        dets: shape (N, 4): left, top, right, bottom.
        scores: shape (N,).
        iou_threshold: a box goes whose intersection over union with a better one that stays is
            larger.

    Returns:
        int64: the places of those that stay, the best first; of equal ones the first.

    Raises:
        RuntimeError: other shapes, as of the compiled operator.
    """
    if dets.dim() != 2 or dets.shape[1] != 4 or scores.shape != dets.shape[:1]:
        raise RuntimeError(
            f"nms: boxes of shape {tuple(dets.shape)} with scores of shape {tuple(scores.shape)}; "
            "expected (N, 4) and (N,)"
        )
    # numpy has no bfloat16, and float16 is too coarse for areas.
    exact = dets if dets.dtype in (torch.float32, torch.float64) else dets.float()
    boxes_N4 = exact.detach().cpu().numpy()
    left_N, top_N, right_N, bottom_N = boxes_N4.T
    areas_N = (right_N - left_N) * (bottom_N - top_N)
    rest = scores.detach().sort(descending=True, stable=True).indices.cpu().numpy()
    kept: list[int] = []
    with np.errstate(invalid="ignore", divide="ignore"):  # of empty boxes: 0 / 0 is no overlap
        while len(rest):
            best, rest = rest[0], rest[1:]
            kept.append(int(best))
            width = np.minimum(right_N[best], right_N[rest]) - np.maximum(
                left_N[best], left_N[rest]
            )
            height = np.minimum(bottom_N[best], bottom_N[rest]) - np.maximum(
                top_N[best], top_N[rest]
            )
            shared = np.maximum(width, 0) * np.maximum(height, 0)
            overlap = shared / (areas_N[best] + areas_N[rest] - shared)
            rest = rest[~(overlap > iou_threshold)]
    return torch.tensor(kept, dtype=torch.int64, device=dets.device)


def _load_native_operators() -> None:
    """Load torchvision's compiled library as its own import would, if that is possible.

    It has to come first: loaded after a declaration it would define the same operators again,
    which torch refuses. Loading it twice is harmless.
    """
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for suffix in EXTENSION_SUFFIXES:
            library = Path(folder) / f"_C{suffix}"
            if library.exists():
                with contextlib.suppress(OSError):  # does not fit this torch
                    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
                return
