"""Eager PyTorch in float32: what the training side computes, and what the others are held to."""

from __future__ import annotations

import torch

from fedfleet.data.images import Pixels
from fedfleet.training.state import to_tensor
from fedfleet_inference_api.backends.backend import Answers, Prepared


class PlainTorch:
    """The module as it is."""

    name = "torch"

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def run(self, images: Pixels) -> Answers:
        with torch.inference_mode():
            answers: Answers = self._prepared(to_tensor(images)).numpy()
        return answers
