"""What computes is chosen when a version is loaded; callers see it in the answer's model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch
from serving import CARD, PIXELS, png, publish, serving, wait_served

from fedfleet.models.catalog import build
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet.training.state import initial_state, load_state
from fedfleet_inference_api.backends import choice, timing
from fedfleet_inference_api.backends.backend import Prepared

IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


def expected(seed: int) -> np.ndarray:
    module = build(CARD)
    load_state(module, initial_state(CARD, seed))
    logits = Prepared(module, CARD.inputs)(torch.from_numpy(PIXELS[None, None].copy()))
    probabilities: np.ndarray = logits.double().softmax(1)[0].numpy()
    return probabilities


@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_versions_are_answered_by_the_backend_of_the_setting(store, backend, monkeypatch):
    monkeypatch.setattr(timing, "MEASURE_S", 0.002)
    first = publish(store, seed=1)
    with serving(store, backend=backend) as (service, client):
        wait_served(service, first)
        for seed in (1, 2):
            if seed == 2:
                wait_served(service, publish(store, seed=2))
            answer = client.post("/predict", params={"k": 10}, **IMAGE).json()

            chances = {p["index"]: p["probability"] for p in answer["predictions"]}
            assert [chances[i] for i in range(10)] == pytest.approx(expected(seed), abs=0.03)
            assert answer["model"]["version"] == seed
            if backend == "onnx":
                assert answer["model"]["backend"] == "onnx"


def test_first_version_answers_while_its_backend_is_chosen_and_the_end_waits_for_neither(
    store, monkeypatch, caplog
):
    for module, name in ((timing, "MEASURE_S"), (timing, "MOST_S"), (choice, "BUDGET_S")):
        monkeypatch.setattr(module, name, 600.0)  # it goes on until it is stopped
    version = publish(store, seed=1)
    with serving(store, backend="auto") as (service, client):
        wait_served(service, version)
        answer = client.post("/predict", **IMAGE).json()

    assert answer["model"]["backend"] == "torch"
    assert not [record for record in caplog.records if record.message == "backend_not_chosen"]


async def test_callers_at_once_are_computed_in_batches(store):
    version = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, version)
        url = str(client.base_url)
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as callers:
            answers = await asyncio.gather(
                *(callers.post("/predict", params={"k": 10}, **IMAGE) for _ in range(48))
            )
        text = client.get("/metrics").text

    assert {answer.status_code for answer in answers} == {200}
    want = expected(1)
    for answer in answers:
        for prediction in answer.json()["predictions"]:
            assert prediction["probability"] == pytest.approx(want[prediction["index"]], abs=1e-6)
    batches = next(
        float(line.split()[1])
        for line in text.splitlines()
        if line.startswith("fedfleet_inference_batch_images_count")
    )
    assert "fedfleet_inference_batch_images_sum 48.0" in text
    assert batches <= 48
