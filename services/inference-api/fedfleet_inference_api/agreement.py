"""How far two versions agree on one image.

Legend: A = anchors, K = classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedfleet.models.card import ModelCard
from fedfleet.models.detection import Detection, decode_answer
from fedfleet_inference_api.backends.backend import Answers
from fedfleet_inference_api.cameras.overlap import overlap, rows_of


def agreement(card: ModelCard, left: Answers, right: Answers) -> float:
    """From 0 (not at all) to 1.

    Of classifiers whether the first answer is the same. Of detectors the mean over the boxes of
    both, each with its best intersection over union with a box of the same class on the other
    side; 1 where neither sees anything.

    Args:
        left, right: answers to the same image: logits (K,), or a detector's (A, 5 + K).
    """
    if card.kind == "classification":
        return float(left.argmax() == right.argmax())
    return box_agreement(decode_answer(card, left), decode_answer(card, right))


def box_agreement(left: Sequence[Detection], right: Sequence[Detection]) -> float:
    """As ``agreement``, of what two detectors saw."""
    if not left or not right:
        return float(not left and not right)
    shares = overlap(rows_of([one.box for one in left]), rows_of([one.box for one in right]))
    shares *= np.equal.outer([one.index for one in left], [one.index for one in right])
    return float(np.concatenate([shares.max(axis=1), shares.max(axis=0)]).mean())
