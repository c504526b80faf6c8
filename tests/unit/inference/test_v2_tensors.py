from __future__ import annotations

import numpy as np
from serving import CARD

from fedfleet_inference_api.servable import softmax
from fedfleet_inference_api.v2_shapes import outputs_of
from fedfleet_inference_api.v2_tensors import tensors_of


def test_outputs_are_as_described():
    logits = np.arange(20, dtype=np.float32).reshape(2, 10)

    tensors = tensors_of(CARD, list(logits), ["logits", "probabilities"])

    assert list(tensors) == ["logits", "probabilities"]
    assert (tensors["logits"] == logits).all()
    assert (tensors["probabilities"] == softmax(logits).astype(np.float32)).all()
    assert {one.dtype.str for one in tensors.values()} == {"<f4"}
    assert outputs_of(CARD) == {"probabilities": [-1, 10], "logits": [-1, 10]}
