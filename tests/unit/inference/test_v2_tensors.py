from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import CARD, PIXELS

from fedfleet.errors import InvalidInput
from fedfleet_inference_api.servable import softmax
from fedfleet_inference_api.v2_tensors import outputs_of, parse_inference, tensors_of

FLAT = PIXELS.ravel().tolist()


def tensor(**changes: object) -> dict[str, object]:
    base = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": FLAT}
    return {**base, **changes}


def inference(**changes: object) -> dict[str, object]:
    return {"inputs": [tensor(**changes)]}


@pytest.mark.parametrize(
    "value",
    [
        inference(),
        inference(data=PIXELS[None, None].tolist()),
        inference(datatype="FP32", data=(PIXELS / 255).ravel().tolist()),
        inference(parameters={"binary_data": False, "content_type": "np"}),
        {**inference(), "id": "7", "parameters": {"anything": 1}, "outputs": []},
    ],
)
def test_tensor_is_read_flat_or_nested_as_pixels_or_shares(value):
    asked = parse_inference(value, CARD, 4)

    assert (asked.images == PIXELS[None, None]).all()
    assert asked.images.dtype == np.uint8
    assert asked.outputs == ("probabilities",)
    assert asked.request_id == value.get("id")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([], "JSON object"),
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [tensor(), tensor()]}, "inputs"),
        ({"inputs": ["x"]}, r"inputs\[0\]"),
        ({**inference(), "id": 5}, "id"),
        ({**inference(), "priority": 1}, "priority"),
        ({**inference(), "parameters": []}, "parameters"),
        ({**inference(), "parameters": {"binary_data_output": True}}, "binary_data_output"),
        ({**inference(), "parameters": {"sequence_id": 1}}, "sequence_id"),
        ({**inference(), "outputs": [{"name": "boxes"}]}, r"outputs\[0\]\.name"),
        ({**inference(), "outputs": "logits"}, "outputs"),
        ({**inference(), "outputs": [{"name": "logits"}] * 3}, "outputs"),
        ({**inference(), "outputs": [{"name": ["x"]}]}, "outputs"),
        (inference(name="input"), "name"),
        (inference(datatype="INT8"), "datatype"),
        (inference(datatype=None), "datatype"),
        (inference(shape=[1, 8, 8]), "shape"),
        (inference(shape=[0, 1, 8, 8]), "shape"),
        (inference(shape=[5, 1, 8, 8]), "shape"),
        (inference(shape=[True, 1, 8, 8]), "shape"),
        (inference(shape=["1", 1, 8, 8]), "shape"),
        (inference(shape=[10**30, 1, 8, 8]), "shape"),
        (inference(shape=None), "shape"),
        (inference(data=None), "data"),
        (inference(data=FLAT[:-1]), "data"),
        (inference(data=[FLAT]), "data"),
        (inference(data=["1"] * 64), "data"),
        (inference(data=[True] * 64), "data"),
        (inference(data=[None] * 64), "data"),
        (inference(data=[{}] * 64), "data"),
        (inference(data=[[1], [1, 2]]), "data"),
        (inference(data=[256] * 64), "UINT8"),
        (inference(data=[-1] * 64), "UINT8"),
        (inference(data=[0.5] * 64), "UINT8"),
        (inference(data=[10**400] * 64), "data"),
        (inference(data=[float("nan")] * 64), "UINT8"),
        (inference(datatype="FP32", data=[1.01] * 64), "FP32"),
        (inference(datatype="FP32", data=[float("inf")] * 64), "FP32"),
        (inference(extra=1), "extra"),
    ],
)
def test_request_that_is_not_right_is_refused_by_its_field(value, named):
    with pytest.raises(InvalidInput, match=named):
        parse_inference(value, CARD, 4)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {
            "inputs": st.lists(
                st.fixed_dictionaries(
                    {"name": st.just("image"), "shape": JSON, "datatype": JSON, "data": JSON}
                ),
                max_size=2,
            )
        },
        optional={"id": JSON, "parameters": JSON, "outputs": JSON},
    )
    | JSON
)
def test_nothing_but_invalid_input_comes_of_any_json(value):
    with suppress(InvalidInput):
        parse_inference(value, CARD, 4)


def test_outputs_are_flat_and_as_described():
    logits = np.arange(20, dtype=np.float32).reshape(2, 10)

    tensors = tensors_of(CARD, list(logits), ["logits", "probabilities"])

    assert [one["shape"] for one in tensors] == [[2, 10], [2, 10]]
    assert tensors[0]["data"] == logits.ravel().tolist()
    assert tensors[1]["data"] == softmax(logits).astype(np.float32).ravel().tolist()
    assert outputs_of(CARD) == {"probabilities": [-1, 10], "logits": [-1, 10]}
