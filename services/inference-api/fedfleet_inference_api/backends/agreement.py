"""Whether a backend answers as plain PyTorch does, within what is stated here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfleet_inference_api.backends.backend import Answers

# Legend: G = images of the golden batch, A = anchors, K = classes.

_Exact = npt.NDArray[np.float64]

_BOX = 4  # numbers of a detector's answer that are a box, before its logits


@dataclass(frozen=True)
class Tolerance:
    """How far two answers may lie apart.

    Args:
        probability: of any class; two classes nearer than this may also change places.
        offset: of a box, in the units that the model learns: a tenth of an anchor's side for a
            centre, a fifth of a factor e for a side.
        relative: of a logit, and of an offset, as a share of the largest one. It is what tells two
            models apart whose answers are all as good as equal, such as at the start of a run.
    """

    probability: float
    offset: float
    relative: float


# What two orders of summing differ by, with room; and what eight bits of precision do: measured at
# most 1.1e-6 of the largest logit, and 0.018 (bench/agreement.py).
TOLERANCES = {"onnx": Tolerance(1e-3, 1e-2, 1e-3), "torch-bfloat16": Tolerance(0.03, 0.2, 0.06)}
_ROUNDING = 1e-12  # of float64, in which answers are compared


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
    offsets, others = want[..., :_BOX].astype(np.float64), got[..., :_BOX].astype(np.float64)
    apart = float(np.abs(offsets - others).max())
    most = min(tolerance.offset, tolerance.relative * float(np.abs(offsets).max()))
    if apart > most:
        return f"its boxes are off by up to {apart:.3g}: over {most:.3g}"
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
    exact, given = _centred(want), _centred(got)
    apart = float(np.abs(exact - given).max())
    most = tolerance.relative * float(np.abs(exact).max()) + _ROUNDING * float(np.abs(want).max())
    if apart > most:
        return f"its logits are off by up to {apart:.3g}: over {most:.3g}"
    return ""


def _centred(logits: Answers) -> _Exact:
    """Logits less their mean over the classes, which probabilities do not depend on."""
    exact = logits.astype(np.float64)
    centred: _Exact = exact - exact.mean(1, keepdims=True)
    return centred


def _probabilities(logits: Answers) -> _Exact:
    centred = _centred(logits)
    raised = np.exp(centred - centred.max(1, keepdims=True))
    chances: _Exact = raised / raised.sum(1, keepdims=True)
    return chances
