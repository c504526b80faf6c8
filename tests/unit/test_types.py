from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import SCHEMA, state, update

from fedfleet.errors import SchemaMismatch
from fedfleet.types import Evaluation, InputSpec, Kind, ModelState, ParamSpec, Schema


def an_evaluation(samples: int = 3, classes: int = 2, loss: float = 1.5) -> Evaluation:
    counts = (samples, *([0] * (classes - 1)))
    return Evaluation(
        samples=samples,
        loss_sum=loss,
        correct=samples,
        top5=samples,
        class_samples=counts,
        class_correct=counts,
        class_predicted=counts,
    )


def test_schema_counts_and_lays_out_each_kind() -> None:
    assert [SCHEMA.elements(kind) for kind in Kind] == [9, 6, 1]
    places = [(param.name, place) for param, place in SCHEMA.layout(Kind.TRAINABLE)]
    assert places == [("dense.weight", slice(0, 6)), ("dense.bias", slice(6, 9))]


def test_schema_survives_json() -> None:
    again = Schema.from_json(json.loads(json.dumps(SCHEMA.to_json())))

    assert again == SCHEMA
    assert again.digest == SCHEMA.digest


@pytest.mark.parametrize(
    "other",
    [
        ParamSpec("b", (2, 3), Kind.TRAINABLE),
        ParamSpec("a", (3, 2), Kind.TRAINABLE),
        ParamSpec("a", (6,), Kind.TRAINABLE),
        ParamSpec("a", (2, 3), Kind.STATISTIC),
    ],
)
def test_schema_digest_sees_name_shape_and_kind(other: ParamSpec) -> None:
    assert Schema((ParamSpec("a", (2, 3), Kind.TRAINABLE),)).digest != Schema((other,)).digest


def test_schema_digest_sees_the_order_and_is_the_same_in_every_release() -> None:
    a, b = ParamSpec("a", (2,), Kind.TRAINABLE), ParamSpec("b", (), Kind.COUNTER)

    assert Schema((a, b)).digest != Schema((b, a)).digest
    # Worker and coordinator compare it: a change here is a change of the wire.
    assert Schema((a, b)).digest == (
        "1998767827c6d2bcb5791ed16d5b4519ccd563dd55de0ffb1fd5a03e5cce05e5"
    )


def test_state_is_flattened_and_shaped_back() -> None:
    given_state = state(seed=3)

    again = ModelState.from_tensors(SCHEMA, given_state.tensors())

    for kind in Kind:
        np.testing.assert_array_equal(again.vector(kind), given_state.vector(kind))
        assert again.vector(kind).dtype == kind.dtype
    assert given_state.tensors()["dense.weight"].shape == (3, 2)
    assert given_state.tensors()["norm.num_batches_tracked"].shape == ()


def test_state_refuses_vectors_of_another_length_or_dtype() -> None:
    good = state()

    with pytest.raises(SchemaMismatch, match=r"trainable vector holds \(8,\)"):
        ModelState(SCHEMA, good.trainable[:8], good.statistics, good.counters)
    with pytest.raises(SchemaMismatch, match="float64"):
        ModelState(SCHEMA, good.trainable.astype(np.float64), good.statistics, good.counters)  # type: ignore[arg-type]


def test_state_refuses_missing_unknown_and_misshapen_tensors() -> None:
    tensors = state().tensors()

    with pytest.raises(SchemaMismatch, match=r"dense\.bias"):
        ModelState.from_tensors(SCHEMA, {k: v for k, v in tensors.items() if k != "dense.bias"})
    with pytest.raises(SchemaMismatch, match="surplus"):
        ModelState.from_tensors(SCHEMA, {**tensors, "surplus": np.zeros(1)})
    with pytest.raises(SchemaMismatch, match=r"dense.weight has shape \(2, 3\)"):
        ModelState.from_tensors(SCHEMA, {**tensors, "dense.weight": np.zeros((2, 3))})


def test_update_names_a_missing_section() -> None:
    assert update().section("trainable").kind is Kind.TRAINABLE
    with pytest.raises(SchemaMismatch, match="'control'") as caught:
        update().section("control")
    assert caught.value.code == "SCHEMA_MISMATCH"


counts = st.lists(st.integers(0, 10**12), min_size=3, max_size=3).map(tuple)
evaluations = st.builds(
    Evaluation,
    samples=st.integers(0, 10**12),
    loss_sum=st.integers(0, 2**40).map(float),
    correct=st.integers(0, 10**12),
    top5=st.integers(0, 10**12),
    class_samples=counts,
    class_correct=counts,
    class_predicted=counts,
)


@given(evaluations, evaluations, evaluations)
def test_evaluations_add_in_any_order(a: Evaluation, b: Evaluation, c: Evaluation) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert (a + b).class_samples == tuple(
        x + y for x, y in zip(a.class_samples, b.class_samples, strict=True)
    )


@given(evaluations)
def test_evaluation_survives_json(evaluation: Evaluation) -> None:
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation


def test_evaluation_of_no_sample_has_no_loss() -> None:
    empty = an_evaluation(samples=0, loss=0.0)

    assert math.isnan(empty.loss)
    assert math.isnan(empty.accuracy)
    assert empty.to_json()["loss"] is None


def test_evaluation_is_the_mean_over_samples() -> None:
    assert an_evaluation(samples=3).loss == 0.5
    assert an_evaluation(samples=3).accuracy == 1.0


def test_evaluations_of_different_numbers_of_classes_are_not_added() -> None:
    with pytest.raises(SchemaMismatch) as caught:
        an_evaluation(classes=2) + an_evaluation(classes=3)
    assert caught.value.code == "SCHEMA_MISMATCH"


def test_input_spec_survives_json() -> None:
    spec = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.25,))

    assert InputSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_input_spec_of_tokens_survives_json_and_images_are_written_as_before() -> None:
    text = InputSpec.tokens(80, 81)
    images = InputSpec(channels=1, height=8, width=9, mean=(0.3,), std=(0.25,))

    assert InputSpec.from_json(json.loads(json.dumps(text.to_json()))) == text
    assert (text.is_tokens, text.shape) == (True, (80,))
    assert (images.is_tokens, images.shape) == (False, (1, 8, 9))
    assert "vocabulary" not in images.to_json()
