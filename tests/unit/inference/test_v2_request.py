from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import CARD, PIXELS
from v2_binary import tensor_of

from fedfleet.errors import InvalidInput
from fedfleet_inference_api.v2_request import Asked, Inference, Output, parse_inference

FLAT = PIXELS.ravel().tolist()
SHARES = (PIXELS / 255).astype("<f4")
ASKED = Asked("digits", CARD, 4)


def parse(value: object, behind: bytes = b"") -> Inference:
    return parse_inference(value, ASKED, memoryview(behind))


def tensor(**changes: object) -> dict[str, object]:
    base = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": FLAT}
    return {**base, **changes}


def inference(**changes: object) -> dict[str, object]:
    return {"inputs": [tensor(**changes)]}


def binary(size: object = 64, **changes: object) -> dict[str, object]:
    changed = {**tensor_of(PIXELS[None, None]), "parameters": {"binary_data_size": size}, **changes}
    return {"inputs": [changed]}


@pytest.mark.parametrize(
    "value",
    [
        inference(),
        inference(data=PIXELS[None, None].tolist()),
        inference(datatype="FP32", data=(PIXELS / 255).ravel().tolist()),
        inference(parameters={"binary_data": False, "content_type": "np"}),
        inference(parameters={"binary_data_size": False}),
        {**inference(), "id": "7", "parameters": {"anything": 1}, "outputs": []},
        {**inference(), "model_name": "digits"},
    ],
)
def test_tensor_is_read_flat_or_nested_as_pixels_or_shares(value):
    asked = parse(value)

    assert (asked.images == PIXELS[None, None]).all()
    assert asked.images.dtype == np.uint8
    assert asked.outputs == (Output("probabilities"),)
    assert asked.request_id == value.get("id")


@pytest.mark.parametrize("images", [PIXELS[None, None], SHARES[None, None]])
def test_tensor_is_read_from_the_bytes_behind_the_json(images):
    asked = parse({"inputs": [tensor_of(images)]}, images.tobytes())

    assert (asked.images == PIXELS[None, None]).all()
    assert asked.outputs == (Output("probabilities"),)


@pytest.mark.parametrize(
    ("parameters", "outputs", "asked_for"),
    [
        ({}, [], {"probabilities": False}),
        ({"binary_data_output": True}, [], {"probabilities": True}),
        ({"binary_data_output": True}, [("logits", {})], {"logits": True}),
        (
            {"binary_data_output": True},
            [("logits", {"binary_data": False}), ("probabilities", {})],
            {"logits": False, "probabilities": True},
        ),
        (
            {"binary_data_output": False},
            [("probabilities", {}), ("logits", {"binary_data": True})],
            {"probabilities": False, "logits": True},
        ),
    ],
)
def test_what_an_output_says_itself_goes_before_what_the_request_says(
    parameters, outputs, asked_for
):
    named = [{"name": name, "parameters": said} for name, said in outputs]

    asked = parse({**inference(), "parameters": parameters, "outputs": named})

    assert {one.name: one.is_binary for one in asked.outputs} == asked_for
    assert [one.name for one in asked.outputs] == list(asked_for)


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
        ({**inference(), "model_name": "cats"}, "model_name"),
        ({**inference(), "parameters": []}, "parameters"),
        ({**inference(), "parameters": {"binary_data_output": 1}}, "binary_data_output"),
        ({**inference(), "parameters": {"binary_data": True}}, "binary_data"),
        ({**inference(), "parameters": {"sequence_id": 1}}, "sequence_id"),
        ({**inference(), "outputs": [{"name": "boxes"}]}, r"outputs\[0\]\.name"),
        ({**inference(), "outputs": "logits"}, "outputs"),
        ({**inference(), "outputs": [{"name": "logits"}] * 3}, "outputs"),
        ({**inference(), "outputs": [{"name": ["x"]}]}, "outputs"),
        (
            {**inference(), "outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]},
            r"outputs\[0\]\.parameters\.binary_data: must be true",
        ),
        (
            {**inference(), "outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
            "classification",
        ),
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
        (inference(parameters={"shared_memory_region": "x"}), "shared_memory_region"),
        (binary(), "0 bytes come behind the JSON, whose length is to stand in the header"),
    ],
)
def test_request_that_is_not_right_is_refused_by_its_field(value, named):
    with pytest.raises(InvalidInput, match=named):
        parse(value)


@pytest.mark.parametrize(
    ("value", "behind", "named"),
    [
        (inference(), 64, "64 bytes come behind the JSON, and no input has binary_data_size"),
        (binary(data=FLAT), 64, r"inputs\[0\]\.data"),
        (binary(), 63, "63 bytes come behind"),
        (binary(), 65, "65 bytes come behind"),
        (binary(63), 63, "UINT8 of that shape has 64 bytes"),
        (binary(64, datatype="FP32"), 64, "FP32 of that shape has 256 bytes"),
        (binary(10**300), 64, "has 64 bytes"),
        (binary(-1), 64, "must be a number of bytes"),
        (binary(True), 64, "must be a number of bytes"),
        (binary(64.0), 64, "must be a number of bytes"),
        (binary("64"), 64, "must be a number of bytes"),
        (binary(None), 64, "must be a number of bytes"),
        (binary(datatype="FP16"), 64, "datatype"),
        (binary(shape=[2, 1, 8, 8]), 64, "has 128 bytes"),
        (binary(256, datatype="FP32"), 256, "FP32 must be shares"),
    ],
)
def test_binary_data_that_do_not_fit_their_description_are_refused(value, behind, named):
    with pytest.raises(InvalidInput, match=named):
        parse(value, b"\x7f" * behind)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
BINARY_PARAMETERS = st.fixed_dictionaries({"binary_data_size": JSON | st.just(64)}) | JSON


@given(
    st.fixed_dictionaries(
        {
            "inputs": st.lists(
                st.fixed_dictionaries(
                    {
                        "name": st.just("image"),
                        "shape": st.just([1, 1, 8, 8]) | JSON,
                        "datatype": st.sampled_from(["UINT8", "FP32"]) | JSON,
                    },
                    optional={"parameters": BINARY_PARAMETERS, "data": JSON},
                ),
                max_size=2,
            )
        },
        optional={"id": JSON, "parameters": JSON, "outputs": JSON},
    )
    | JSON,
    st.binary(max_size=8) | st.binary(min_size=64, max_size=64),
)
def test_nothing_but_invalid_input_comes_of_any_request(value, behind):
    with suppress(InvalidInput):
        parse(value, behind)
