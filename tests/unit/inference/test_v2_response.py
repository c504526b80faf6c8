from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from v2_binary import HEADER, answer_in

from fedfleet_inference_api import v2_response
from fedfleet_inference_api.answers import Latency, ModelRef
from fedfleet_inference_api.v2_answers import V2Answer, V2Inference, V2Parameters
from fedfleet_inference_api.v2_request import Output
from fedfleet_inference_api.v2_response import respond

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
TENSORS = arrays.arrays(
    np.dtype("<f4"), st.tuples(st.integers(0, 3), st.integers(1, 4)), elements=FLOATS
)
MODEL = ModelRef(
    name="digits",
    version=1,
    round=1,
    digest="0" * 64,
    alias="",
    kind="classification",
    level="a",
    backend="torch",
)


def answered(outputs, tensors):
    answer = V2Answer(
        model_name="digits",
        model_version="1",
        parameters=V2Parameters(model=MODEL, latency_ms=Latency(read=0.5, total=1.0)),
    )
    return respond(answer, outputs, tensors)


@given(st.lists(st.tuples(TENSORS, st.booleans()), min_size=1, max_size=3))
def test_outputs_come_back_from_json_and_bytes_as_they_were(given_outputs):
    outputs = [Output(f"o{place}", binary) for place, (_, binary) in enumerate(given_outputs)]
    tensors = {f"o{place}": tensor for place, (tensor, _) in enumerate(given_outputs)}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(v2_response, "_CHUNK", 5)
        response = answered(outputs, tensors)
    said, read = answer_in(response.body, response.headers)

    V2Inference.model_validate(said, extra="forbid")
    assert [output["name"] for output in said["outputs"]] == list(tensors)
    for name, tensor in tensors.items():
        assert read[name].shape == tensor.shape
        assert read[name].tobytes() == tensor.tobytes()


@pytest.mark.parametrize("is_binary", [False, True])
def test_answer_with_binary_data_says_where_they_begin(is_binary):
    tensors = {"o": np.zeros((0, 7), "<f4")}

    response = answered([Output("o", is_binary)], tensors)

    media_type = "application/octet-stream" if is_binary else "application/json"
    assert response.headers["content-type"] == media_type
    assert (HEADER in response.headers) == is_binary
