"""One look of a model at a frame: what it is shown, and how its answer is read, by its kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfleet.data.images import Pixels
from fedfleet.models.detection import decode_answer
from fedfleet_inference_api.cameras.fitting import fit_part, fit_whole, with_margin
from fedfleet_inference_api.cameras.motion import Motion
from fedfleet_inference_api.cameras.overlap import FRAME
from fedfleet_inference_api.cameras.seen import Box, Frame, Seen
from fedfleet_inference_api.servable import Servable

# Legend: K = classes, A = anchors.

NAMED = 5  # classes of a classification
DOUBTFUL_SHARE = 0.4  # of a camera's score: boxes below are not even used to keep a track alive
LEAST_DOUBTFUL = 0.1
MOST_BOXES = 100


@dataclass(frozen=True, eq=False)
class Look:
    """A frame on its way through a model.

    Args:
        servable: the version that looks; its answer is read as its own card says, even if another
            one is served when it comes.
        region: of a classification, what it is shown; else the whole frame.
        image: uint8, the input.
    """

    frame: Frame
    motion: Motion | None
    servable: Servable
    region: Box
    image: Pixels

    @property
    def is_detection(self) -> bool:
        return self.servable.card.kind == "detection"

    def detections(self, answer: npt.NDArray[np.float32], score: float) -> list[Seen]:
        """What a detector found, doubtful things too, the surest first.

        Args:
            answer: shape (A, 4 + 1 + K).
            score: from which on a thing is sure.
        """
        least = min(score, max(LEAST_DOUBTFUL, DOUBTFUL_SHARE * score))
        card = self.servable.card
        found = decode_answer(card, answer, score=least, most=MOST_BOXES)
        return [
            Seen(label=card.classes[one.index], index=one.index, score=one.score, box=one.box)
            for one in found
            if one.box[0] < one.box[2] and one.box[1] < one.box[3]
        ]

    def classes(self, answer: npt.NDArray[np.float32]) -> list[Seen]:
        """The most probable classes of the region, at most five; of equal ones the first.

        Args:
            answer: logits, shape (K,).
        """
        powers = np.exp(answer.astype(np.float64) - float(answer.max()))
        shares = powers / powers.sum()
        names = self.servable.card.classes
        return [
            Seen(label=names[index], index=index, score=float(shares[index]), box=self.region)
            for index in np.argsort(-shares, kind="stable")[:NAMED].tolist()
        ]


def look_at(frame: Frame, motion: Motion | None, servable: Servable) -> Look:
    """Prepare a look: a detector gets the frame, a classifier the largest moving region of it."""
    inputs = servable.card.inputs
    if servable.card.kind == "detection":
        return Look(frame, motion, servable, FRAME, fit_whole(frame.pixels, inputs))
    region = with_margin(motion.regions[0]) if motion and motion.regions else FRAME
    return Look(frame, motion, servable, region, fit_part(frame.pixels, region, inputs))
