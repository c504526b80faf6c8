from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.backends import timing
from fedfleet_inference_api.backends.backend import Answers
from fedfleet_inference_api.backends.mixed import Mixed
from fedfleet_inference_api.backends.timing import Times, measure, plan

SECONDS = st.floats(1e-4, 1.0)


def test_plan_takes_one_backend_that_is_the_fastest_for_all():
    times = {"torch": Times(5.0, 20.0), "onnx": Times(1.0, 8.0)}

    assert plan(times, 8) == plan({"onnx": Times(1.0, 8.0)}, 8)
    assert plan(times, 8).few == "onnx"


def test_plan_takes_two_where_each_is_the_faster_one_by_far():
    # ResNet-18 as measured for the issue: bfloat16 wins in batches, ONNX Runtime alone.
    times = {"torch": Times(21.0, 152.0), "onnx": Times(8.0, 96.0), "bfloat16": Times(12.0, 38.0)}

    chosen = plan(times, 8)

    assert (chosen.few, chosen.many) == ("onnx", "bfloat16")
    assert chosen.most == 1  # two images: 20.6 against 15.7


def test_plan_takes_no_second_backend_for_less_than_a_tenth():
    times = {"a": Times(1.0, 8.0), "b": Times(1.05, 7.8)}

    assert plan(times, 8).few == plan(times, 8).many


def test_plan_of_equal_times_is_the_first_name():
    assert plan({"torch": Times(1.0, 4.0), "onnx": Times(1.0, 4.0)}, 8).many == "torch"


@given(st.dictionaries(st.sampled_from("abc"), st.tuples(SECONDS, SECONDS), min_size=1))
def test_plan_is_never_much_slower_than_the_best(found):
    times = {name: Times(*pair) for name, pair in found.items()}

    chosen = plan(times, 8)

    assert times[chosen.few].one_s <= 1.11 * min(one.one_s for one in times.values())
    assert times[chosen.many].full_s <= 1.11 * min(one.full_s for one in times.values())
    assert 1 <= chosen.most <= 8


class Counting:
    def __init__(self, name: str, order: list[str] | None = None) -> None:
        self.name = name
        self.sizes: list[int] = []
        self.order = [] if order is None else order

    def run(self, images: np.ndarray) -> Answers:
        self.sizes.append(len(images))
        self.order.append(self.name)
        return np.zeros((len(images), 2), np.float32)


def test_measure_times_one_image_and_a_full_batch_of_each_in_turn(monkeypatch):
    monkeypatch.setattr(timing, "MEASURE_S", 0.03)
    order: list[str] = []
    backends = {"a": Counting("a", order), "b": Counting("b", order)}

    times = measure(backends, np.zeros((8, 1, 2, 2), np.uint8))

    assert set(times) == {"a", "b"}
    assert all(0 < time_s < 1 for one in times.values() for time_s in (one.one_s, one.full_s))
    assert all(set(backend.sizes) == {1, 8} for backend in backends.values())
    assert "".join(order).strip("a").rstrip("b").count("a") > 0  # not one after the other


def test_mixed_computes_each_batch_with_the_backend_for_its_size():
    few, many = Counting("few"), Counting("many")
    mixed = Mixed(few, many, 3)

    for size in (1, 3, 4, 8):
        assert len(mixed.run(np.zeros((size, 1, 2, 2), np.uint8))) == size

    assert (few.sizes, many.sizes) == ([1, 3], [4, 8])
    assert mixed.name == "few up to 3, then many"
