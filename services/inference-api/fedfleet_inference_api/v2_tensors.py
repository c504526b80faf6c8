"""A version's answers as the output tensors of the KServe V2 protocol.

Legend: B = batch, A = anchors, K = classes, N = boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fedfleet.models.card import ModelCard
from fedfleet.models.detection import decode_answer
from fedfleet_inference_api.backends.backend import Answers
from fedfleet_inference_api.reading import DEFAULT_SCORE
from fedfleet_inference_api.servable import softmax
from fedfleet_inference_api.v2_shapes import DETECTION_FIELDS, DETECTIONS, PROBABILITIES

# Little-endian, as binary data are sent, whatever this machine is.
_FP32 = np.dtype("<f4")


def tensors_of(
    card: ModelCard, answers: Sequence[Answers], outputs: Iterable[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """The named outputs: float32, little-endian, of the shapes in ``outputs_of``.

    Args:
        answers: one for each image: logits (K,), or a detector's (A, 5 + K).
    """
    batch = np.stack(answers)
    return {name: _output(card, batch, name).astype(_FP32) for name in outputs}


def _output(card: ModelCard, answers: Answers, name: str) -> npt.NDArray[np.floating]:
    if name == PROBABILITIES:
        return softmax(answers)
    if name == DETECTIONS:
        return _detections(card, answers)
    return answers


def _detections(card: ModelCard, answers: Answers) -> npt.NDArray[np.float64]:
    """Shape (N, 7), of all images."""
    rows = [
        (image, found.index, found.score, *found.box)
        for image, answer in enumerate(answers)
        for found in decode_answer(card, answer, score=DEFAULT_SCORE)
    ]
    return np.asarray(rows, np.float64).reshape(-1, DETECTION_FIELDS)
