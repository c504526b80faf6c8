from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from fedfleet.errors import ChecksumMismatch, InvalidInput, SchemaMismatch
from fedfleet.models.card import ModelCard
from fedfleet.models.config import BUILT_IN, ModelConfig
from fedfleet.types import Evaluation, InputSpec, Kind, ModelState, ParamSpec, Schema
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.offers import (
    check_layers,
    check_model,
    check_size,
    check_weights,
    check_whole,
    offer_from_message,
)
from fedfleet.wire.weights import encode_state

SCHEMA = Schema(
    (
        ParamSpec("dense.weight", (3, 4), Kind.TRAINABLE),
        ParamSpec("norm.mean", (3,), Kind.STATISTIC),
        ParamSpec("norm.batches", (), Kind.COUNTER),
    )
)


def a_state(schema: Schema = SCHEMA) -> ModelState:
    vectors = (np.ones(schema.elements(kind), kind.dtype) for kind in Kind)
    return ModelState(schema, *vectors)


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=512), st.lists(st.integers(0, 5), max_size=16)),
        max_size=20,
        unique_by=lambda one: one[0],
    )
)
def test_every_file_of_a_schema_has_a_size_that_is_taken(tensors) -> None:
    rows = [(name.encode("utf-8", "replace").decode(), shape) for name, shape in tensors]
    params = tuple(
        ParamSpec(name, tuple(n % 3 for n in shape), Kind.TRAINABLE)
        for name, shape in dict(rows).items()
    )
    schema = Schema(params)

    check_size(schema, len(encode_state(a_state(schema))))


@pytest.mark.parametrize("size_bytes", [0, 60, 68, 1 << 20])
def test_another_size_is_refused(size_bytes: int) -> None:
    with pytest.raises(InvalidInput, match="68 and some for names"):
        check_size(SCHEMA, size_bytes)


def test_weights_are_those_of_the_schema() -> None:
    state = a_state()

    assert check_weights(SCHEMA, encode_state(state)).trainable.tolist() == [1.0] * 12


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["trainable", "statistics"])
def test_weights_that_are_not_finite_are_refused(which: str, value: float) -> None:
    state = a_state()
    vector = getattr(state, which).copy()
    vector[1] = value

    with pytest.raises(InvalidInput, match="not finite"):
        check_weights(SCHEMA, encode_state(replace(state, **{which: vector})))


def test_tensors_of_another_type_are_refused() -> None:
    tensors = a_state().tensors()

    for name, dtype in (("dense.weight", np.float64), ("norm.batches", np.int32)):
        data = save({**tensors, name: tensors[name].astype(dtype)})
        with pytest.raises(SchemaMismatch, match=name):
            check_weights(SCHEMA, data)


def test_bytes_are_those_of_the_digest() -> None:
    check_whole("ab" * 32, "ab" * 32)

    with pytest.raises(ChecksumMismatch, match="abab"):
        check_whole("ab" * 32, "cd" * 32)


def test_model_of_the_card_is_the_one_that_the_weights_are_of() -> None:
    first, *others = SCHEMA.params
    check_model(SCHEMA, Schema(SCHEMA.params))

    for params, named in (
        ((replace(first, shape=(4, 3)), *others), "dense.weight"),
        ((replace(first, kind=Kind.STATISTIC), *others), "dense.weight"),
        (tuple(others), "dense.weight"),
        ((*SCHEMA.params, replace(first, name="more")), "more"),
        ((*others, first), "their order"),
    ):
        with pytest.raises(SchemaMismatch, match=named):
            check_model(SCHEMA, Schema(params))


def a_card(architecture: str = "mlp", **options: object) -> ModelCard:
    return ModelCard(
        model=ModelConfig(architecture=architecture, options=BUILT_IN[architecture](**options)),
        inputs=InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,)),
        classes=("a", "b"),
    )


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("mlp", {"hidden": (1,) * 4}),
        ("vit", {"depth": 4}),
        ("resnet18", {"blocks": (1, 1, 1, 1)}),
        ("char_lstm", {"layers": 4}),
    ],
)
def test_model_of_more_layers_than_tensors_is_not_built(architecture: str, options) -> None:
    with pytest.raises(SchemaMismatch, match=r"has 4 layers, more than .* tensors \(3\)"):
        check_layers(a_card(architecture, **options), SCHEMA)


def test_model_without_stacks_has_layers_enough() -> None:
    check_layers(a_card("mlp", hidden=(1,) * 3), SCHEMA)
    check_layers(a_card("cnn"), Schema(()))


EVALUATION = Evaluation(
    samples=4,
    loss_sum=2.0,
    correct=3,
    top5=4,
    class_samples=(2, 2),
    class_correct=(2, 1),
    class_predicted=(3, 1),
    confusion=((2, 0), (1, 1)),
).to_json()


def test_evaluation_is_of_the_classes_of_the_card() -> None:
    three = {name: [*EVALUATION[name], 0] for name in EVALUATION if name.startswith("class_")}
    other = {**EVALUATION, **three, "confusion": []}

    with pytest.raises(SchemaMismatch, match="3 classes, the card has 2"):
        offer_from_message(a_header(evaluation=other))


def a_header(**metrics: object) -> pb.ImportHeader:
    return pb.ImportHeader(
        model="bought",
        digest="ab" * 32,
        size_bytes=1000,
        schema_json=json.dumps(SCHEMA.to_json()),
        card_json=json.dumps(a_card().to_json()),
        metrics_json=json.dumps(metrics),
    )


@pytest.mark.parametrize("evaluation", [None, EVALUATION, {**EVALUATION, "scores": {"map50": 0.5}}])
def test_evaluation_of_an_offer_is_kept_as_it_is(evaluation: object) -> None:
    offer = offer_from_message(a_header(evaluation=evaluation, updates=3))

    assert offer.metrics == {"evaluation": evaluation, "updates": 3}


@pytest.mark.parametrize(
    "evaluation",
    [
        "x",
        [],
        {},
        {"accuracy": 0.5},
        {"class_samples": 3},
        {**EVALUATION, "class_samples": 3},
        {**EVALUATION, "class_correct": [2, "1"]},
        {**EVALUATION, "class_correct": [2]},
        {**EVALUATION, "class_correct": [2, 2]},
        {**EVALUATION, "samples": -4},
        {**EVALUATION, "samples": True},
        {**EVALUATION, "samples": 10**400},
        {**EVALUATION, "loss_sum": None},
        {**EVALUATION, "loss_sum": 10**400},
        {**EVALUATION, "accuracy": "high"},
        {**EVALUATION, "confusion": [[1, 2]]},
        {**EVALUATION, "confusion": 3},
        {**EVALUATION, "scores": []},
        {**EVALUATION, "scores": {"map50": "x"}},
        {**EVALUATION, "scores": {"map50": 2}},
    ],
)
def test_evaluation_of_another_form_is_refused(evaluation: object) -> None:
    with pytest.raises(InvalidInput, match="evaluation"):
        offer_from_message(a_header(evaluation=evaluation))
