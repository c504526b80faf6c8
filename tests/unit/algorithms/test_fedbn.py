from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samples import SCHEMA, header, sections, state
from torch import nn

from fedfleet.aggregation.accumulator import Aggregate, UpdateAccumulator
from fedfleet.algorithms.base import Finished, LocalWork, Memory, Received, RoundResult, Trained
from fedfleet.algorithms.catalog import AlgorithmConfig
from fedfleet.algorithms.fedavg import FedAvgOptions
from fedfleet.algorithms.fedbn import FedBN, local_places
from fedfleet.algorithms.plan import MAIN
from fedfleet.data.config import DataConfig, DigitsOptions
from fedfleet.models.card import ModelCard
from fedfleet.models.config import CnnOptions, ModelConfig, ResNetOptions
from fedfleet.models.resnet import build
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.local import LocalTrainer
from fedfleet.training.state import initial_state, schema_of
from fedfleet.training.worker import LocalRun, LocalWorker
from fedfleet.types import InputSpec, Kind, ModelState, ParamSpec, Schema, Update

FEDBN = FedBN(FedAvgOptions())
WORK = LocalWork(samples=7, steps=3, lr_sum=0.3, reach=0.3)
INPUTS = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))

# As SCHEMA, with a normalisation layer that has scale and shift, and one that is no batch norm.
BN = Schema(
    (
        ParamSpec("dense.weight", (2, 2), Kind.TRAINABLE),
        ParamSpec("downsample.1.weight", (2,), Kind.TRAINABLE),
        ParamSpec("downsample.1.bias", (2,), Kind.TRAINABLE),
        ParamSpec("downsample.1.running_mean", (2,), Kind.STATISTIC),
        ParamSpec("downsample.1.running_var", (2,), Kind.STATISTIC),
        ParamSpec("downsample.1.num_batches_tracked", (), Kind.COUNTER),
        ParamSpec("bn_by_name_only.weight", (2,), Kind.TRAINABLE),
    )
)


class Block(nn.Module):
    """Names as torchvision gives them: the projection's normalisation is ``downsample.1``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(4)
        self.stateless = nn.BatchNorm2d(4, track_running_stats=False)


def names_at(schema: Schema) -> set[str]:
    """The trainable tensors that are local; each must be so as a whole."""
    places = set(local_places(schema).tolist())
    found = set()
    for param, place in schema.layout(Kind.TRAINABLE):
        inside = places & set(range(place.start, place.stop))
        assert len(inside) in (0, param.elements)
        if inside:
            found.add(param.name)
    return found


def test_fedbn_finds_batch_normalisation_by_layer_and_not_by_name() -> None:
    assert names_at(schema_of(Block())) == {
        "bn1.weight",
        "bn1.bias",
        "downsample.1.weight",
        "downsample.1.bias",
    }
    assert names_at(BN) == {"downsample.1.weight", "downsample.1.bias"}


def test_fedbn_finds_every_batch_normalisation_of_resnet18() -> None:
    module = build(INPUTS, 10, ResNetOptions())
    layers = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]

    places = local_places(schema_of(module))

    assert len(layers) == 20  # 17 on the way and 3 in the shortcuts
    assert len(places) == sum(m.weight.numel() + m.bias.numel() for m in layers)
    assert len(np.unique(places)) == len(places)
    assert any(name.startswith("blocks.2.shortcut.1") for name in names_at(schema_of(module)))


def test_fedbn_finds_none_in_group_normalisation() -> None:
    assert local_places(schema_of(build(INPUTS, 10, ResNetOptions(norm="group")))).size == 0


def test_fedbn_finds_a_layer_that_is_the_whole_model() -> None:
    assert names_at(schema_of(nn.BatchNorm1d(3))) == {"weight", "bias"}


def finish(received: ModelState, end: ModelState, memory: Memory) -> Finished:
    given = Received(received, {}, memory)
    return FEDBN.finish(given, Trained(FEDBN.start_from(given), end, WORK, raises))


def raises() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    raise AssertionError("nobody asked for the gradient")


def test_fedbn_layers_never_leave_the_device() -> None:
    received, end, places = state(BN, 1), state(BN, 2), local_places(BN)

    made = {s.name: s.values for s in finish(received, end, {}).sections}

    np.testing.assert_array_equal(made["trainable"][places], 0.0)
    others = np.setdiff1d(np.arange(BN.elements(Kind.TRAINABLE)), places)
    np.testing.assert_array_equal(
        made["trainable"][others], (end.trainable - received.trainable)[others]
    )
    np.testing.assert_array_equal(made["statistic"], received.statistics)
    np.testing.assert_array_equal(made["counter"], received.counters)


def test_fedbn_worker_goes_on_with_its_own_layers() -> None:
    end, places = state(BN, 2), local_places(BN)
    memory = finish(state(BN, 1), end, {}).memory
    version = state(BN, 3)

    start = FEDBN.start_from(Received(version, {}, memory))

    np.testing.assert_array_equal(start.trainable[places], end.trainable[places])
    others = np.setdiff1d(np.arange(BN.elements(Kind.TRAINABLE)), places)
    np.testing.assert_array_equal(start.trainable[others], version.trainable[others])
    np.testing.assert_array_equal(start.statistics, end.statistics)
    np.testing.assert_array_equal(start.counters, end.counters)
    # The next delta is of what it started from, so the others' is the change alone.
    delta = finish(version, state(BN, 4), memory).sections[0].values
    np.testing.assert_array_equal(
        delta[others], (state(BN, 4).trainable - version.trainable)[others]
    )


def test_fedbn_new_worker_starts_from_the_coordinators() -> None:
    version = state(BN, 1)

    assert FEDBN.start_from(Received(version, {}, {})) is version


@pytest.mark.parametrize("policy", ["average", "pooled"])
def test_fedbn_coordinators_copy_never_moves(policy: str) -> None:
    """Not even by what a lossy codec, or a worker that does otherwise, makes of it."""
    base, places = state(BN, 1), local_places(BN)
    total = UpdateAccumulator(BN, policy=policy, max_updates=2, max_weight=10)  # type: ignore[arg-type]  # a text
    for seed in (2, 3):
        values = {kind: state(BN, seed).vector(kind) for kind in Kind}
        total.add(Update(header(BN), sections(BN, values)), 3.0)

    following = FEDBN.step(RoundResult(base, {MAIN: total.result()}, (), {}, 2)).state

    np.testing.assert_array_equal(following.trainable[places], base.trainable[places])
    assert (following.trainable != base.trainable).sum() == BN.elements(
        Kind.TRAINABLE
    ) - places.size
    np.testing.assert_array_equal(following.statistics, base.statistics)
    np.testing.assert_array_equal(following.counters, base.counters)


def test_fedbn_without_scale_and_shift_still_keeps_the_statistics() -> None:
    """A layer of SCHEMA has running statistics and no parameters."""
    memory = finish(state(seed=1), state(seed=2), {}).memory

    start = FEDBN.start_from(Received(state(seed=3), {}, memory))

    np.testing.assert_array_equal(start.trainable, state(seed=3).trainable)
    np.testing.assert_array_equal(start.statistics, state(seed=2).statistics)
    assert local_places(SCHEMA).size == 0


def test_fedbn_of_a_model_without_batch_normalisation_is_fedavg() -> None:
    schema = Schema((ParamSpec("w", (3,), Kind.TRAINABLE),))
    base, end = state(schema, 1), state(schema, 2)

    made = finish(base, end, {})

    np.testing.assert_array_equal(made.sections[0].values, end.trainable - base.trainable)
    aggregate = Aggregate(
        {"trainable": made.sections[0].values.astype(np.float64)},
        base.statistics,
        base.counters,
        1,
        1.0,
    )
    following = FEDBN.step(RoundResult(base, {MAIN: aggregate}, (), {}, 1)).state
    np.testing.assert_allclose(following.trainable, end.trainable, rtol=1e-6)


def test_fedbn_worker_evaluates_with_its_own_layers() -> None:
    options = CnnOptions(width=0.1, hidden=16, norm="batch")
    card = ModelCard(
        model=ModelConfig(architecture="cnn", options=options),
        inputs=INPUTS,
        classes=tuple("0123456789"),
    )
    run = LocalRun(
        worker_id="worker-0",
        seed=1,
        rounds=2,
        data=DataConfig(dataset="digits", options=DigitsOptions(), partition="iid", workers=8),
        training=TrainingConfig(epochs=5, lr=0.1, batch_size=16, device="cpu", threads=1),
        evaluation=EvaluationConfig(workers="all"),
        algorithm=AlgorithmConfig(name="fedbn", options=FedAvgOptions()),
        shard=0,
        data_dir=None,
    )
    trainer = LocalTrainer(card, run.training, run.evaluation)
    worker = LocalWorker(run, trainer)
    version = initial_state(card, 1)
    result = worker.train(version, seed=1, round=1, broadcast=(), memory={})
    # The version of a round with this worker alone.
    trained = version.trainable + result.sections[0].values
    following = replace(version, trainable=trained)

    own = worker.evaluate(following, result.memory)
    stranger = worker.evaluate(following, {})

    # The worker's own layers lead to what training itself measured at its end.
    assert own.accuracy == pytest.approx(result.work.metrics["validation_accuracy"])
    assert own.loss == pytest.approx(result.work.metrics["validation_loss"], rel=1e-4)
    assert stranger.loss != pytest.approx(own.loss, rel=0.01)
