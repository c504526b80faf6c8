"""Whether a backend answers as plain PyTorch does, within what is stated here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedfleet_inference_api.backends.backend import Answers

# Legend: G = images of the golden batch, A = anchors, K = classes.

_BOX = 4  # numbers of a detector's answer that are a box, before its logits


@dataclass(frozen=True)
class Tolerance:
    """How far two answers may lie apart.

    Args:
        probability: of any class; two classes nearer than this may also change places.
        offset: of a box, in the units that the model learns: a tenth of an anchor's side for a
            centre, a fifth of a factor e for a side.
    """

    probability: float
    offset: float


# What two orders of summing differ by, with room; and what eight bits of precision do.
TOLERANCES = {"onnx": Tolerance(1e-3, 1e-2), "torch-bfloat16": Tolerance(0.03, 0.2)}


def disagreement(want: Answers, got: Answers, tolerance: Tolerance) -> str:
    """What is wrong with a backend's answers to the golden batch; empty where nothing is.

    Args:
        want: of plain torch: logits (G, K), or a detector's (G, A, 4 + 1 + K); finite.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"it answers {got.dtype} of shape {got.shape}, not {want.dtype} of {want.shape}"
    if not np.isfinite(got).all():
        return "its answers are not finite"
    if want.ndim == 2:
        return _of_logits(want, got, tolerance)
    apart = float(np.abs(want[..., :_BOX] - got[..., :_BOX]).max())
    if apart > tolerance.offset:
        return f"its boxes are off by up to {apart:.3g}: over {tolerance.offset:g}"
    flat = (-1, want.shape[-1] - _BOX)
    return _of_logits(want[..., _BOX:].reshape(flat), got[..., _BOX:].reshape(flat), tolerance)


def _of_logits(want: Answers, got: Answers, tolerance: Tolerance) -> str:
    chances, others = _probabilities(want), _probabilities(got)
    apart = float(np.abs(chances - others).max())
    if apart > tolerance.probability:
        return f"its probabilities are off by up to {apart:.3g}, over {tolerance.probability:g}"
    rows = np.arange(len(chances))
    best, other = chances.argmax(1), others.argmax(1)
    lost = float((chances[rows, best] - chances[rows, other]).max())
    if lost > tolerance.probability:
        return f"it names another class, which is less probable by {lost:.3g}"
    return ""


def _probabilities(logits: Answers) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    exact = logits.astype(np.float64)
    raised = np.exp(exact - exact.max(1, keepdims=True))
    chances: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = raised / raised.sum(
        1, keepdims=True
    )
    return chances
