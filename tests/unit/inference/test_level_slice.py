"""Narrower widths of one version, as a run's workers evaluate them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save
from serving import CARD, publish, serving, wait_served, wait_until

from fedfleet.data.golden import golden_batch
from fedfleet.data.shard import Examples
from fedfleet.errors import SchemaMismatch, VersionInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.config import CnnOptions, ModelConfig
from fedfleet.rounds.levels import LevelsConfig
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.state import initial_state
from fedfleet.training.submodels import SubModels
from fedfleet.training.trainers import Trainers
from fedfleet.types import FloatVector, Kind, Schema
from fedfleet.wire.weights import encode_state
from fedfleet_inference_api.servable import load_servable

RATES = (1.0, 0.5, 0.25)
LINEAGE = {"levels": dict(zip("abc", RATES, strict=True))}


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
    record = publish(store, 7, card=card("group"), state=state, lineage=LINEAGE)
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


def test_level_of_a_model_with_running_statistics_answers_with_its_own(store):
    """As the module of that width does, which is given them by its tensors' names."""
    trainers = Trainers(
        card("batch"), TrainingConfig(), EvaluationConfig(), LevelsConfig(rates=RATES)
    )
    assert trainers.models is not None
    state = initial_state(card("batch"), 7)
    own = {level: statistics_of(trainers.models.schema(level)) for level in "bc"}
    data = encode_state(state, own)
    record = publish(store, 7, card=card("batch"), state=state, data=data, lineage=LINEAGE)
    images = golden_batch(CARD.inputs, 32)

    for level, statistics in own.items():
        servable = load_servable(store.blobs, record, "latest", level=level)

        labels = servable.probabilities(images).argmax(1)
        part = replace(trainers.models.slice(level).cut(state), statistics=statistics)
        found = trainers.at(level).evaluate(part, Examples(images, labels))
        assert found.correct == 32
        assert (
            servable.card.model.options.width == 0.5 * dict(zip("abc", RATES, strict=True))[level]
        )
    wide = load_servable(store.blobs, record, "latest").probabilities(images)
    plain = publish(store, 7, card=card("batch"), state=state)
    assert np.array_equal(load_servable(store.blobs, plain, "latest").probabilities(images), wide)


def statistics_of(schema: Schema) -> FloatVector:
    """Of no symmetry, and no variance below 0."""
    return np.linspace(0.25, 2.0, schema.elements(Kind.STATISTIC), dtype=np.float32)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda right: {}, "batch normalisation, and its round measured no statistics"),
        (lambda right: {"c": right[:1]}, "measured no statistics of this level"),
        (lambda right: {"b": right[:-1]}, "comes with 47 running statistics"),
        (lambda right: {"b": -right}, "negative running variance"),
    ],
)
def test_level_without_statistics_of_its_own_is_refused(store, spoil, why):
    state = initial_state(card("batch"), 1)
    models = SubModels(card("batch"), RATES)
    data = encode_state(state, spoil(statistics_of(models.schema("b"))))
    record = publish(store, 1, card=card("batch"), state=state, data=data, lineage=LINEAGE)

    with pytest.raises(VersionInvalid, match=rf"FEDFLEET_SERVE_LEVEL=b: digits version 1 .*{why}"):
        load_servable(store.blobs, record, "latest", level="b")
    assert load_servable(store.blobs, record, "latest").level == "a"


def test_level_whose_statistics_cannot_be_read_is_refused(store):
    state = initial_state(card("batch"), 1)
    data = save(state.tensors(), {"fedfleet.levels": '{"b": 1}'})
    record = publish(store, 1, card=card("batch"), state=state, data=data, lineage=LINEAGE)

    with pytest.raises(SchemaMismatch, match="statistics of narrower levels"):
        load_servable(store.blobs, record, "latest", level="b")


@pytest.mark.parametrize("lineage", [{}, {"levels": None}, {"levels": ["a", "b"]}])
def test_level_of_a_run_without_levels_is_refused(store, lineage):
    """Nobody has trained its slices: they would answer by chance."""
    record = publish(store, 1, card=card("none"), lineage=lineage)

    with pytest.raises(VersionInvalid, match=r"trained at its whole width only.*\[levels\]"):
        load_servable(store.blobs, record, "latest", level="c")


@pytest.mark.parametrize("rate", [0.25, 0.0, -1.0, 1.0, 2.0, float("nan"), "0.25", None, True])
def test_level_that_the_run_did_not_have_is_refused(store, rate):
    name = "d" if rate == 0.25 else "c"
    levels = {"a": 1.0, "b": 0.5, name: rate}
    record = publish(store, 1, card=card("none"), lineage={"levels": levels})

    with pytest.raises(VersionInvalid, match=r"FEDFLEET_SERVE_LEVEL=c: .* has the levels a, b"):
        load_servable(store.blobs, record, "latest", level="c")


def test_level_that_is_no_narrower_is_refused(store):
    bare = replace(CARD, model=ModelConfig(architecture="cnn", options=CnnOptions(width=0.03)))
    record = replace(publish(store, 1, card=bare), lineage={"levels": {"a": 1.0, "b": 0.999999}})

    with pytest.raises(VersionInvalid, match="cannot be cut"):
        load_servable(store.blobs, record, "latest", level="b")


def test_service_serves_its_level_and_says_so(store):
    version = publish(store, 1, card=card("group"), lineage=LINEAGE)
    with serving(store, serve_level="b") as (service, client):
        wait_served(service, version)

        served = client.get("/served").json()["model"]
        assert (served["level"], served["digest"]) == ("b", version.digest)


def test_service_says_why_it_cannot_serve_its_level(store):
    publish(store, 1, card=card("batch"), lineage=LINEAGE)
    with serving(store, serve_level="b") as (service, client):
        wait_until(lambda: service.follower.following.failure != "")

        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "batch normalisation" in ready.json()["detail"]
