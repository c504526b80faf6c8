"""Narrower widths of one version, as a run's workers evaluate them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from serving import CARD, publish, serving, wait_served, wait_until

from fedfleet.data.golden import golden_batch
from fedfleet.data.shard import Examples
from fedfleet.errors import VersionInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.config import CnnOptions, ModelConfig
from fedfleet.rounds.levels import LevelsConfig
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.state import initial_state
from fedfleet.training.trainers import Trainers
from fedfleet_inference_api.servable import load_servable

RATES = (1.0, 0.5, 0.25)


def card(norm: str) -> ModelCard:
    options = CnnOptions(norm=norm, hidden=32, width=0.5)  # type: ignore[arg-type]
    return replace(CARD, model=ModelConfig(architecture="cnn", options=options))


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as opened:
        yield opened


@pytest.mark.parametrize("level", ["a", "b", "c"])
def test_level_answers_as_a_worker_of_that_level_evaluates(store, level):
    state = initial_state(card("group"), 7)
    record = replace(
        publish(store, 7, card=card("group"), state=state),
        lineage={"levels": dict(zip("abc", RATES, strict=True))},
    )
    images = golden_batch(CARD.inputs, 32)
    trainers = Trainers(
        card("group"), TrainingConfig(), EvaluationConfig(), LevelsConfig(rates=RATES)
    )
    assert trainers.models is not None

    servable = load_servable(store.blobs, record, "latest", level=level)
    probabilities = servable.probabilities(images)

    labels = probabilities.argmax(1)  # so that a worker that sees the same finds all of them right
    part = trainers.models.slice(level).cut(state)
    found = trainers.at(level).evaluate(part, Examples(images, labels))
    loss = -np.log(probabilities[np.arange(32), labels]).sum()
    assert found.correct == 32
    assert found.loss_sum == pytest.approx(loss, rel=1e-5)
    assert servable.level == level
    wide = load_servable(store.blobs, record, "latest").probabilities(images)
    assert np.array_equal(wide, probabilities) == (level == "a")


def test_level_of_a_run_without_levels_has_the_usual_width(store):
    record = publish(store, 1, card=card("none"))

    servable = load_servable(store.blobs, record, "latest", level="c")

    options = servable.card.model.options
    assert isinstance(options, CnnOptions)
    assert options.width == 0.5 * 0.25


def test_level_that_the_run_did_not_have_is_refused(store):
    record = replace(publish(store, 1), lineage={"levels": {"a": 1.0, "b": 0.5}})

    with pytest.raises(VersionInvalid, match=r"FEDFLEET_SERVE_LEVEL=c: .* has the levels a, b"):
        load_servable(store.blobs, record, "latest", level="c")


def test_level_of_a_model_with_running_statistics_is_refused(store):
    record = publish(store, 1, card=card("batch"))

    with pytest.raises(VersionInvalid, match="batch normalisation"):
        load_servable(store.blobs, record, "latest", level="b")


def test_level_that_is_no_narrower_is_refused(store):
    bare = replace(CARD, model=ModelConfig(architecture="cnn", options=CnnOptions(width=0.03)))
    record = replace(publish(store, 1, card=bare), lineage={"levels": {"a": 1.0, "b": 0.999999}})

    with pytest.raises(VersionInvalid, match="cannot be cut"):
        load_servable(store.blobs, record, "latest", level="b")


def test_service_serves_its_level_and_says_so(store):
    version = publish(store, 1, card=card("group"))
    with serving(store, serve_level="b") as (service, client):
        wait_served(service, version)

        served = client.get("/served").json()["model"]
        assert (served["level"], served["digest"]) == ("b", version.digest)


def test_service_says_why_it_cannot_serve_its_level(store):
    publish(store, 1, card=card("batch"))
    with serving(store, serve_level="b") as (service, client):
        wait_until(lambda: service.follower.following.failure != "")

        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "batch normalisation" in ready.json()["detail"]
