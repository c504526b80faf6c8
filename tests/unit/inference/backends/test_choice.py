"""Real backends of real architectures; what they are chosen by is theirs to measure."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from serving import CARD, wait_until

from fedfleet.data.golden import golden_batch
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import CnnOptions, MobileNetOptions, ModelConfig, VitOptions
from fedfleet.types import InputSpec
from fedfleet_inference_api.backends import choice, timing
from fedfleet_inference_api.backends.agreement import TOLERANCES, Tolerance, disagreement
from fedfleet_inference_api.backends.backend import BackendMissingError, Prepared
from fedfleet_inference_api.backends.bfloat16 import BFloat16Torch, has_bfloat16
from fedfleet_inference_api.backends.choice import Backends
from fedfleet_inference_api.backends.mixed import Mixed
from fedfleet_inference_api.backends.onnx_runtime import OnnxRuntime, export_graph
from fedfleet_inference_api.backends.plain import PlainTorch

COLOUR = InputSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = tuple("abcdefghij")
CONFIGS = {
    "cnn": CnnOptions(norm="batch", width=0.25),
    "mobilenet_v3_small": MobileNetOptions(width=0.5),
    "vit": VitOptions(),
}
CARDS = {
    name: ModelCard(
        model=ModelConfig(architecture=name, options=options), inputs=COLOUR, classes=NAMES
    )
    for name, options in CONFIGS.items()
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(timing, "MEASURE_S", 0.002)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prepared(card: ModelCard = CARD, seed: int = 1) -> Prepared:
    torch.manual_seed(seed)
    return Prepared(build(card), card.inputs)


def told(monkeypatch: pytest.MonkeyPatch, times: dict[str, timing.Times]) -> None:
    """Have backends timed so, and others slowly: real times are the machine's."""
    slow = timing.Times(9.0, 9.0)
    monkeypatch.setattr(
        choice, "measure", lambda backends, *_: {name: times.get(name, slow) for name in backends}
    )


@pytest.mark.parametrize("name", CARDS)
def test_onnx_graph_of_one_version_answers_with_the_weights_of_another(name):
    card = CARDS[name]
    graph = export_graph(prepared(card, 1), card.inputs)
    other = prepared(card, 2)
    images = golden_batch(card.inputs)
    want = PlainTorch(other).run(images)

    backend = OnnxRuntime(other, graph, 1)

    assert len(graph.data) < 100_000  # no weights in it
    assert disagreement(want, backend.run(images), TOLERANCES["onnx"]) == ""
    assert np.allclose(backend.run(images[:3]), want[:3], atol=1e-4)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    assert np.allclose(backend.run(images), want, atol=1e-4)  # its weights are its own


@pytest.mark.parametrize("name", CARDS)
def test_other_weights_of_an_architecture_at_the_start_of_a_run_disagree(name):
    """Their probabilities are all near 1 / K, so those alone tell nothing."""
    card = CARDS[name]
    images = golden_batch(card.inputs)
    want, other = (PlainTorch(prepared(card, seed)).run(images) for seed in (1, 2))

    for tolerance in TOLERANCES.values():
        assert disagreement(want, want.copy(), tolerance) == ""
        assert disagreement(want, other, tolerance) != ""
        assert disagreement(want, np.zeros_like(want), tolerance) != ""


def test_onnx_graph_keeps_weights_apart_that_are_equal_by_chance():
    """As those of a normalisation are at the start of a run."""
    card = CARDS["cnn"]
    graph = export_graph(prepared(card), card.inputs)

    weights = {name for name, _ in prepared(card).named_parameters()}

    assert weights <= set(graph.names)


@pytest.mark.skipif(not has_bfloat16(), reason="the processor has no instructions for bfloat16")
def test_bfloat16_agrees_within_its_tolerance():
    card = CARDS["vit"]
    images = golden_batch(card.inputs)
    module = prepared(card)

    got = BFloat16Torch(module).run(images)

    assert disagreement(PlainTorch(module).run(images), got, TOLERANCES["torch-bfloat16"]) == ""
    assert next(module.parameters()).dtype == torch.float32  # the original is as it was


def test_bfloat16_is_refused_where_the_processor_does_not_know_it(tmp_path):
    told = {
        "x86": "processor : 0\nflags : fpu avx2 avx512f\n",
        "arm": "Features : fp asimd\n",
        "new x86": "flags\t\t: avx512f avx512_bf16 avx512vl\n",
        "new arm": "Features : asimd bf16 i8mm\n",
    }
    found = {}
    for name, text in told.items():
        (tmp_path / name).write_text(text)
        found[name] = has_bfloat16(tmp_path / name)

    assert found == {"x86": False, "arm": False, "new x86": True, "new arm": True}
    assert not has_bfloat16(tmp_path / "missing")
    with pytest.raises(BackendMissingError, match="no instructions"):
        BFloat16Torch(prepared(), tmp_path / "arm")


def test_auto_measures_once_for_an_architecture(caplog):
    caplog.set_level(logging.INFO)
    backends = Backends("auto", max_batch=4, threads=1)

    def measured() -> int:
        return sum(record.message == "backend_chosen" for record in caplog.records)

    first = backends.of(CARD, prepared(seed=1))
    second = backends.of(CARD, prepared(seed=2))
    assert measured() == 1
    assert first.name == second.name
    backends.of(CARDS["vit"], prepared(CARDS["vit"]))
    assert measured() == 2
    chosen = next(r for r in caplog.records if r.message == "backend_chosen")
    assert chosen.__dict__["one_ms"]["torch"] > 0


@pytest.mark.parametrize("setting", ["auto", "torch", "onnx"])
def test_every_setting_answers_as_plain_torch_does(setting):
    module = prepared()
    images = golden_batch(CARD.inputs)

    backend = Backends(setting, max_batch=4, threads=1).of(CARD, module)

    assert np.allclose(backend.run(images), PlainTorch(module).run(images), atol=0.05)
    if setting != "auto":
        assert backend.name == setting


def test_auto_does_without_a_library_that_is_missing(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed

    backend = Backends("auto", max_batch=4, threads=1).of(CARD, prepared())

    assert "onnx" not in backend.name
    (missing,) = [
        r
        for r in caplog.records
        if r.message == "backend_missing" and r.__dict__["backend"] == "onnx"
    ]
    assert "onnxruntime cannot be imported" in missing.__dict__["reason"]


def test_backend_that_disagrees_is_not_used_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setitem(TOLERANCES, "onnx", Tolerance(-1.0, -1.0, 1.0))

    backend = Backends("onnx", threads=1).of(CARD, prepared())

    assert backend.name == "torch"
    (refused,) = [r for r in caplog.records if r.message == "backend_refused"]
    assert "probabilities are off" in refused.__dict__["reason"]


def test_version_that_a_chosen_backend_fails_is_measured_anew_and_so_is_the_next(
    monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    told(monkeypatch, {"torch": timing.Times(1.0, 4.0), "onnx": timing.Times(0.1, 0.4)})
    backends = Backends("auto", max_batch=4, threads=1)
    assert backends.of(CARD, prepared(seed=1)).name == "onnx"

    with monkeypatch.context() as odd:
        odd.setitem(TOLERANCES, "onnx", Tolerance(-1.0, -1.0, 1.0))
        assert backends.of(CARD, prepared(seed=2)).name == "torch"

    assert backends.of(CARD, prepared(seed=3)).name == "onnx"
    assert sum(r.message == "backend_chosen" for r in caplog.records) == 3


def test_auto_takes_two_backends_where_both_are_worth_it(monkeypatch):
    told(monkeypatch, {"torch": timing.Times(0.1, 4.0), "onnx": timing.Times(1.0, 1.2)})
    module = prepared()

    backend = Backends("auto", max_batch=8, threads=1).of(CARD, module)

    assert isinstance(backend, Mixed)
    assert backend.name.startswith("torch up to 2, then onnx")
    images = golden_batch(CARD.inputs)
    assert np.allclose(backend.run(images), PlainTorch(module).run(images), atol=1e-4)


def test_version_that_is_not_finite_is_left_to_plain_torch():
    module = prepared()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(float("nan"))

    assert Backends("auto", threads=1).of(CARD, module).name == "torch"


class Flat(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).sum(1)


def test_version_with_answers_of_no_known_form_is_left_to_plain_torch():
    assert Backends("onnx", threads=1).of(CARD, Prepared(Flat(), CARD.inputs)).name == "torch"


class Stubborn(torch.nn.Module):
    """Works in float32 only, and in no graph."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing() or images.dtype != torch.float32:
            raise KeyError("not here")
        return images.flatten(1)[:, :10]


def test_module_that_only_plain_torch_computes_is_served_by_it(caplog):
    backend = Backends("auto", threads=1).of(CARD, Prepared(Stubborn(), CARD.inputs))

    assert backend.name == "torch"
    assert {r.__dict__["backend"] for r in caplog.records if r.message == "backend_refused"} >= {
        "onnx"
    }


class Weighed(torch.nn.Module):
    """Takes a time for each image, in eager torch and in no other way."""

    def __init__(self, now_s: list[float], image_s: float) -> None:
        super().__init__()
        self.now_s, self.image_s = now_s, image_s

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing() or images.dtype != torch.float32:
            raise KeyError("not here")
        self.now_s[0] += self.image_s * len(images)
        return images.flatten(1)[:, :10]


@pytest.mark.parametrize(("image_s", "most_s"), [(0.05, 3.05), (1.0, 4.0), (10.0, 10.0)])
def test_auto_takes_three_seconds_and_little_more_whatever_the_model(monkeypatch, image_s, most_s):
    now_s = [0.0]
    made = timing.Budget
    monkeypatch.setattr(choice, "Budget", lambda *given: made(*given, lambda: now_s[0]))

    backend = Backends("auto", threads=1).of(CARD, Prepared(Weighed(now_s, image_s), CARD.inputs))

    assert backend.name == "torch"
    assert now_s[0] <= most_s


def test_version_that_callers_wait_for_is_answered_by_torch_until_the_choice_is_made(monkeypatch):
    may_measure = threading.Event()

    def measure(backends: dict[str, object], *_: object) -> dict[str, timing.Times]:
        may_measure.wait()
        return {name: timing.Times(*(2 * [0.1 if name == "onnx" else 9.0])) for name in backends}

    monkeypatch.setattr(choice, "measure", measure)
    backends = Backends("auto", max_batch=4, threads=1)
    module = prepared()
    images = golden_batch(CARD.inputs)

    backend = backends.of(CARD, module, is_awaited=True)

    assert backend.name == "torch"
    want = backend.run(images)
    may_measure.set()
    wait_until(lambda: backend.name == "onnx")
    assert np.allclose(backend.run(images), want, atol=1e-4)
    assert backends.of(CARD, prepared(seed=2)).name == "onnx"  # the next one knows it at once
    backends.close()


def test_stop_ends_a_choice_after_the_run_under_way(monkeypatch):
    """And remembers nothing of it."""
    monkeypatch.setattr(timing, "MEASURE_S", 60.0)
    monkeypatch.setattr(timing, "MOST_S", 60.0)
    monkeypatch.setattr(choice, "BUDGET_S", 60.0)
    measuring, begun = choice.measure, threading.Event()

    def measure(*given: object) -> dict[str, timing.Times]:
        begun.set()
        return measuring(*given)

    monkeypatch.setattr(choice, "measure", measure)
    backends = Backends("auto", max_batch=4, threads=1)
    backends.of(CARD, prepared(), is_awaited=True)
    assert begun.wait(30)

    closing = threading.Thread(target=backends.close)
    closing.start()
    closing.join(10)

    assert not closing.is_alive()
    assert [known.plan for known in backends._known.values()] == [None]
    assert backends.of(CARD, prepared(seed=2), is_awaited=True).name == "torch"
