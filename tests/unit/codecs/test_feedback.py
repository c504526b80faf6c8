from __future__ import annotations

import numpy as np
import pytest
from codec_vectors import CHAINS, sparing, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.codecs.chain import parse_chain
from fedfleet.codecs.feedback import MOMENTUM, RESIDUAL, ErrorFeedback
from fedfleet.errors import SchemaMismatch, UpdateNotFinite
from fedfleet.types import Array, FloatVector

BIASED = [text for text in CHAINS if not parse_chain(text).is_unbiased]


def deltas(count: int, elements: int, seed: int = 0) -> list[FloatVector]:
    return [vector("heavy", elements, 0.1, seed + i) for i in range(count)]


@given(
    st.sampled_from(BIASED),
    st.integers(0, 300),
    st.integers(1, 6),
    st.integers(0, 10**6),
    st.booleans(),
)
@settings(deadline=None)
def test_sum_of_what_was_sent_and_the_residual_is_the_sum_of_the_deltas(
    text: str, elements: int, rounds: int, seed: int, spared: bool
) -> None:
    chain, feedback = parse_chain(text), ErrorFeedback()
    chain = sparing(chain, elements, seed) if spared else chain
    memory = feedback.start(elements)
    sent = np.zeros(elements)
    given_deltas = deltas(rounds, elements, seed)

    for i, delta in enumerate(given_deltas):
        encoded, memory = feedback.encode(chain, delta, memory, i)
        sent += chain.decode(encoded)

    total = sum(delta.astype(np.float64) for delta in given_deltas)
    np.testing.assert_allclose(sent + memory[RESIDUAL], total, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_feedback_changes_nothing_that_it_is_given(momentum: float) -> None:
    chain, feedback = parse_chain("topk:0.1|int8"), ErrorFeedback(momentum=momentum)
    first, second = deltas(2, 500)
    _, memory = feedback.encode(chain, first, feedback.start(500), 0)
    before = {name: values.copy() for name, values in memory.items()}
    delta = second.copy()

    once, kept = feedback.encode(chain, second, memory, 1)
    again, kept_again = feedback.encode(chain, second, memory, 1)

    np.testing.assert_array_equal(second, delta)
    for name, values in before.items():
        np.testing.assert_array_equal(memory[name], values)
        np.testing.assert_array_equal(kept[name], kept_again[name])
    assert bytes(once.data) == bytes(again.data)


def test_everything_is_sent_in_the_end_when_the_deltas_stop() -> None:
    chain, feedback = parse_chain("topk:0.1"), ErrorFeedback()
    delta = vector("heavy", 200, 1.0, 0)
    encoded, memory = feedback.encode(chain, delta, feedback.start(200), 0)
    sent = chain.decode(encoded)

    for i in range(9):
        encoded, memory = feedback.encode(chain, np.zeros_like(delta), memory, i)
        sent += chain.decode(encoded)

    np.testing.assert_array_equal(sent, delta)
    assert not memory[RESIDUAL].any()


@pytest.mark.parametrize("spans", [(), (slice(0, 7), slice(100, 120))])
def test_momentum_correction_and_masking_are_those_of_dgc(spans: tuple[slice, ...]) -> None:
    chain = parse_chain("topk:0.1").sparing(spans, 300)
    feedback = ErrorFeedback(momentum=0.9)
    memory = feedback.start(300)
    momentum = np.zeros(300)
    velocity = np.zeros(300)

    for i, delta in enumerate(deltas(8, 300)):
        encoded, memory = feedback.encode(chain, delta, memory, i)
        momentum = 0.9 * momentum + delta
        velocity = velocity + momentum
        positions, values = chain.decode_sparse(encoded)
        np.testing.assert_allclose(values, velocity[positions], rtol=1e-5)
        momentum[positions] = velocity[positions] = 0
        assert not memory[MOMENTUM][positions].any()
        assert not memory[RESIDUAL][positions].any()
        np.testing.assert_allclose(memory[MOMENTUM], momentum, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(memory[RESIDUAL], velocity, rtol=1e-5, atol=1e-8)


def test_decay_forgets_old_residuals() -> None:
    chain = parse_chain("topk:0.01")
    feedback = ErrorFeedback(decay=0.5)
    delta = np.ones(100, np.float32)
    _, memory = feedback.encode(chain, delta, feedback.start(100), 0)
    for i in range(3):
        _, memory = feedback.encode(chain, np.zeros_like(delta), memory, i)

    assert memory[RESIDUAL][-1] == 0.125


def test_feedback_makes_a_biased_codec_converge_and_its_absence_does_not() -> None:
    target = np.linspace(-1, 1, 50).astype(np.float32)
    target[0] = 30.0
    # One worker's pull is always large at element 0, and the other's cancels it there.
    pull = np.zeros(50, np.float32)
    pull[0] = 20.0
    chain, feedback = parse_chain("topk:0.02"), ErrorFeedback()

    def distance(*, fed_back: bool) -> float:
        weights = np.zeros(50, np.float32)
        memories = [feedback.start(50), feedback.start(50)]
        for i in range(1500):
            step = np.zeros(50, np.float32)
            for j, sign in enumerate((1, -1)):
                delta = np.float32(0.01) * (target - weights + sign * pull)
                if fed_back:
                    encoded, memories[j] = feedback.encode(chain, delta, memories[j], i)
                else:
                    encoded = chain.encode(delta, i)
                step += chain.decode(encoded)
            weights += step / 2
        return float(np.abs(weights - target)[1:].max())

    assert distance(fed_back=True) < 0.3
    assert distance(fed_back=False) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    "memory",
    [
        {},
        {RESIDUAL: np.zeros(9, np.float32)},
        {RESIDUAL: np.zeros(10)},
        {RESIDUAL: np.zeros((10, 1), np.float32)},
    ],
)
def test_feedback_refuses_what_was_kept_for_another_model(memory: dict[str, Array]) -> None:
    with pytest.raises(SchemaMismatch, match="residual"):
        ErrorFeedback().encode(parse_chain("sign"), np.zeros(10, np.float32), memory, 0)


@pytest.mark.parametrize("decay", [1.0, 0.9])
@pytest.mark.parametrize("text", ["sign", "topk:0.5"])
def test_feedback_refuses_a_sum_that_is_not_finite(text: str, decay: float) -> None:
    huge = np.full(10, 3e38, np.float32)

    with pytest.raises(UpdateNotFinite):
        ErrorFeedback(decay=decay).encode(parse_chain(text), huge, {RESIDUAL: huge}, 0)


def test_feedback_checks_its_settings() -> None:
    with pytest.raises(ValueError, match="decay = 0"):
        ErrorFeedback(decay=0.0)
    with pytest.raises(ValueError, match="momentum = 1"):
        ErrorFeedback(momentum=1.0)
    with pytest.raises(ValueError, match="needs a sparse codec, not sign"):
        ErrorFeedback(momentum=0.9).encode(
            parse_chain("sign"), np.zeros(4, np.float32), ErrorFeedback(momentum=0.9).start(4), 0
        )
