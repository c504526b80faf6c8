from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedfleet.algorithms.base import Algorithm, Memory
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.feddyn import FedDyn, FedDynOptions
from fedfleet.algorithms.fedprox import FedProx, FedProxOptions
from fedfleet.algorithms.scaffold import Scaffold, ScaffoldOptions
from fedfleet.data.shard import Examples
from fedfleet.errors import DataEmpty, DataInvalid, SchemaMismatch, TrainingFailed
from fedfleet.models.card import ModelCard
from fedfleet.models.config import CnnOptions, MlpOptions, ModelConfig
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.local import LocalTrainer, TrainResult, TrainTask
from fedfleet.training.stacked import StackedTrainer, TaskOutcome, why_not_stacked
from fedfleet.training.state import initial_state
from fedfleet.types import InputSpec, Kind, ModelState, Section

INPUTS = InputSpec(channels=1, height=4, width=4, mean=(0.5,), std=(0.25,))
FEDAVG = FedAvg(FedAvgOptions())
ALGORITHMS: tuple[Algorithm, ...] = (
    FEDAVG,
    FedProx(FedProxOptions(mu=0.5)),
    FedDyn(FedDynOptions(alpha=0.1)),
    Scaffold(ScaffoldOptions(option="I")),
    Scaffold(ScaffoldOptions(option="II")),
)
# Float32 has 24 bits. A step's sums run over a batch or a layer's inputs, in another order, and up
# to 40 steps build on each other: 8 of the bits may be lost.
LOST = 2.0**-16


def card(*hidden: int) -> ModelCard:
    model = ModelConfig(architecture="mlp", options=MlpOptions(hidden=hidden))
    return ModelCard(model=model, inputs=INPUTS, classes=("a", "b", "c"))


def trainer(model: ModelCard, **options: Any) -> LocalTrainer:
    chosen = {"lr": 0.05, "batch_size": 4, "device": "cpu", "threads": 1, **options}
    return LocalTrainer(model, TrainingConfig(**chosen), EvaluationConfig(batch_size=3))


def drawn(count: int, seed: int) -> Examples:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    return Examples(images, random.integers(0, 3, count))


def task(model: ModelCard, worker: int, count: int, **changes: Any) -> TrainTask:
    algorithm: Algorithm = changes.get("algorithm", FEDAVG)
    received = initial_state(model, 1)
    options: dict[str, Any] = {
        "algorithm": algorithm,
        "received": received,
        "examples": drawn(count, worker),
        "seed": 5 + worker,
        "split_seed": 3 + worker,
        "round": 2,
        "rounds": 4,
        "broadcast": algorithm.broadcast(received.schema, algorithm.start(received.schema)),
        "memory": {},
    }
    return TrainTask(**{**options, **changes})


def result(outcome: TaskOutcome) -> TrainResult:
    assert isinstance(outcome, TrainResult), outcome
    return outcome


def assert_alike(one: TrainResult, stacked: TrainResult) -> None:
    """Equal but for the rounding of float32."""
    for left, right in zip(one.sections, stacked.sections, strict=True):
        assert left.name == right.name
        assert_close(left.values, right.values)
    assert one.memory.keys() == stacked.memory.keys()
    for key in one.memory:
        assert_close(one.memory[key], stacked.memory[key])
    left, right = one.work, stacked.work
    assert (left.samples, left.steps, left.lr_sum, left.reach) == (
        *(right.samples, right.steps, right.lr_sum, right.reach),
    )
    assert left.epoch_losses == pytest.approx(right.epoch_losses, rel=1e-4)
    assert left.metrics == pytest.approx(right.metrics, rel=1e-4)


def assert_close(left: np.ndarray, right: np.ndarray) -> None:
    largest = np.abs(left).max(initial=0.0)
    assert np.abs(left - right).max(initial=0.0) <= LOST * max(largest, 2.0**-7)


def same_bits(left: TrainResult, right: TrainResult) -> bool:
    return left.work == right.work and all(
        np.array_equal(a.values, b.values)
        for a, b in zip(left.sections, right.sections, strict=True)
    )


SETTINGS = st.fixed_dictionaries(
    {
        "epochs": st.integers(1, 3),
        "batch_size": st.integers(0, 6),
        "momentum": st.sampled_from([None, 0.9]),
        "weight_decay": st.sampled_from([0.0, 0.01]),
        "scheduler": st.sampled_from(["constant", "cosine"]),
        "label_smoothing": st.sampled_from([0.0, 0.1]),
        "clip_norm": st.sampled_from([None, 0.5]),
        "validation_fraction": st.sampled_from([0.0, 0.3]),
    }
)


@given(
    hidden=st.lists(st.integers(1, 9), max_size=2),
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=6),
    algorithm=st.sampled_from(ALGORITHMS),
    options=SETTINGS,
    nesterov=st.booleans(),
    most=st.integers(2, 6),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_train_many_gives_what_training_one_by_one_gives(
    hidden: list[int],
    sizes: list[int],
    algorithm: Algorithm,
    options: dict[str, Any],
    nesterov: bool,
    most: int,
) -> None:
    model = card(*hidden)
    local = trainer(model, nesterov=nesterov and options["momentum"] is not None, **options)
    tasks = [
        task(model, worker, count, algorithm=algorithm, rms_loss=worker % 2 == 0)
        for worker, count in enumerate(sizes)
    ]

    stacked = StackedTrainer(local, most).train_many(tasks)

    for each, outcome in zip(tasks, stacked, strict=True):
        assert_alike(local.train(each), result(outcome))


def test_train_many_starts_each_worker_from_its_own_state_and_memory() -> None:
    model = card(5)
    local = trainer(model, epochs=2)
    algorithm = Scaffold(ScaffoldOptions())
    tasks = []
    for worker in range(3):
        start = initial_state(model, worker)
        own = np.random.default_rng(worker).normal(0, 0.01, len(start.trainable))
        memory: Memory = {"scaffold.own": own.astype(np.float32)}
        control = Section("control", Kind.TRAINABLE, (own * (worker + 1)).astype(np.float32))
        tasks.append(
            task(
                model,
                worker,
                10 + worker,
                algorithm=algorithm,
                received=start,
                memory=memory,
                broadcast=(control,),
            )
        )

    stacked = StackedTrainer(local, 3).train_many(tasks)

    for each, outcome in zip(tasks, stacked, strict=True):
        assert_alike(local.train(each), result(outcome))


def test_train_many_gives_the_same_bits_each_time() -> None:
    model = card(8)
    tasks = [task(model, worker, 9 + worker) for worker in range(4)]
    stacked = StackedTrainer(trainer(model, momentum=0.9), 4)

    first, second = stacked.train_many(tasks), stacked.train_many(tasks)

    for left, right in zip(first, second, strict=True):
        assert same_bits(result(left), result(right))


@pytest.mark.parametrize("most", [1, 4])
def test_train_many_alone_gives_the_bits_of_the_plain_trainer(most: int) -> None:
    model = card(8)
    local = trainer(model)
    tasks = [task(model, worker, 9) for worker in range(1 if most > 1 else 3)]

    outcomes = StackedTrainer(local, most).train_many(tasks)

    for each, outcome in zip(tasks, outcomes, strict=True):
        assert same_bits(local.train(each), result(outcome))


def test_train_many_fails_a_task_and_not_its_neighbours() -> None:
    model = card(6)
    local = trainer(model)
    empty = Examples(np.zeros((0, 1, 4, 4), np.uint8), np.zeros(0, np.int64))
    odd = Examples(drawn(8, 0).images, np.full(8, 7, np.int64))
    tasks = [
        task(model, 0, 10),
        task(model, 1, 0, examples=empty),
        task(model, 2, 0, examples=odd),
        task(model, 3, 12, received=huge(initial_state(model, 1))),
        task(model, 4, 12, received=initial_state(card(7), 1)),
        task(model, 5, 7),
    ]

    outcomes = StackedTrainer(local, 6).train_many(tasks)

    assert [type(outcome) for outcome in outcomes] == [
        *(TrainResult, DataEmpty, DataInvalid, TrainingFailed, SchemaMismatch, TrainResult),
    ]
    for place in (0, 5):
        assert_alike(local.train(tasks[place]), result(outcomes[place]))
    for place in (1, 2, 3, 4):
        with pytest.raises(type(outcomes[place])) as raised:
            local.train(tasks[place])
        assert str(raised.value) == str(outcomes[place])


def huge(state: ModelState) -> ModelState:
    """A state whose answers overflow."""
    return replace(state, trainable=np.full_like(state.trainable, 3e38))


def test_train_many_stops_when_it_is_cancelled() -> None:
    model = card()
    tasks = [task(model, worker, 12, examples=drawn(8 + 4 * worker, 0)) for worker in range(2)]
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(len(asked))
        return len(asked) == 2

    local = trainer(model, validation_fraction=0.0)
    outcomes = StackedTrainer(local, 2).train_many(tasks, cancelled)

    assert [str(outcome) for outcome in outcomes] == [
        "local training was cancelled after step 2 of 2",
        "local training was cancelled after step 2 of 3",
    ]
    assert len(asked) == 2


def test_train_many_reports_the_progress_of_a_task_that_wants_it() -> None:
    model = card()
    shares: list[float] = []
    tasks = [task(model, 0, 12, on_progress=shares.append), task(model, 1, 12), task(model, 2, 12)]

    outcomes = StackedTrainer(trainer(model), 3).train_many(tasks)

    assert shares[-1] == 1.0
    assert all(isinstance(outcome, TrainResult) for outcome in outcomes)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam"},
        {"amp": "bfloat16"},
        {"augment": "flip"},
        {"scheduler": "plateau"},
        {"mask_absent": True},
        {"ordered_dropout": True},
    ],
)
def test_why_not_stacked_names_what_is_trained_one_by_one(options: dict[str, Any]) -> None:
    model = card(8)
    local = trainer(model, **options)
    tasks: Sequence[TrainTask] = [task(model, worker, 9) for worker in range(2)]

    outcomes = StackedTrainer(local, 2).train_many(tasks)

    assert next(iter(options)) in why_not_stacked(local)
    for each, outcome in zip(tasks, outcomes, strict=True):
        assert same_bits(local.train(each), result(outcome))


def test_why_not_stacked_names_another_architecture() -> None:
    model = ModelConfig(architecture="cnn", options=CnnOptions(width=0.1))
    local = trainer(ModelCard(model=model, inputs=INPUTS, classes=("a", "b", "c")))

    assert "cnn" in why_not_stacked(local)
    assert why_not_stacked(trainer(card(8))) == ""


def test_why_not_stacked_names_a_width() -> None:
    config = TrainingConfig(device="cpu", threads=1)
    narrow = ModelConfig(architecture="mlp", options=MlpOptions(hidden=(8,), width=0.5))
    local = LocalTrainer(
        ModelCard(model=narrow, inputs=INPUTS, classes=("a", "b", "c")),
        config,
        EvaluationConfig(),
        rate=0.5,
    )

    assert why_not_stacked(local) == "levels (this one has rate 0.5)"
