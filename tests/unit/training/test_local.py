import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedfleet.algorithms.base import (
    Finished,
    GradientAdjuster,
    LocalWork,
    Memory,
    Received,
    Trained,
)
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.feddyn import FedDyn, FedDynOptions
from fedfleet.algorithms.fedgw import FedGW, FedGWOptions
from fedfleet.algorithms.fednova import FedNova
from fedfleet.algorithms.fedprox import FedProx, FedProxOptions
from fedfleet.algorithms.fedseq import FedSeq, FedSeqOptions
from fedfleet.algorithms.scaffold import Scaffold, ScaffoldOptions
from fedfleet.data.shard import Examples
from fedfleet.errors import (
    DataEmpty,
    DataInvalid,
    FedFleetError,
    RecipeInvalid,
    SchemaMismatch,
    TrainingFailed,
)
from fedfleet.models.card import ModelCard
from fedfleet.models.width import narrowed
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.local import LocalTrainer, TrainResult, TrainTask
from fedfleet.training.seeding import derive
from fedfleet.training.split import split_validation
from fedfleet.training.state import initial_state
from fedfleet.types import Kind, ModelState

FEDAVG = FedAvg(FedAvgOptions())
MakeCard = Callable[..., ModelCard]
EMPTY = Examples(np.zeros((0, 1, 8, 8), np.uint8), np.zeros(0, np.int64))


class Recording(FedAvg):
    """An algorithm that pulls towards the received version and counts its rounds in memory."""

    def __init__(self) -> None:
        super().__init__(FedAvgOptions())
        self.adjusted = 0
        self.memories: list[Memory] = []
        self.works: list[LocalWork] = []

    def adjuster(self, received: Received) -> GradientAdjuster:
        self.memories.append(received.memory)
        version = received.version
        tensors = version.tensors()
        names = [p.name for p in version.schema.params if p.kind is Kind.TRAINABLE]

        def adjust(params: Sequence[Tensor]) -> None:
            self.adjusted += 1
            for name, param in zip(names, params, strict=True):
                assert param.grad is not None
                param.grad.add_(param - torch.from_numpy(tensors[name].copy()))

        return adjust

    def finish(self, received: Received, trained: Trained) -> Finished:
        self.memories.append(received.memory)
        self.works.append(trained.work)
        rounds = received.memory.get("rounds", np.zeros((), np.int64))
        return Finished(self.built_in(trained), {"rounds": np.asarray(rounds + 1)})


def trainer(card: ModelCard, evaluation_batch: int = 256, **options: Any) -> LocalTrainer:
    config = TrainingConfig(**{"lr": 0.05, "batch_size": 8, "device": "cpu", **options})
    return LocalTrainer(card, config, EvaluationConfig(batch_size=evaluation_batch))


def task(card: ModelCard, examples: Examples, **changes: Any) -> TrainTask:
    options: dict[str, Any] = {
        "algorithm": FEDAVG,
        "received": initial_state(card, 1),
        "examples": examples,
        "seed": 5,
        "split_seed": 3,
        "round": 1,
        "rounds": 4,
        "memory": {},
    }
    return TrainTask(**{**options, **changes})


def same(left: TrainResult, right: TrainResult) -> bool:
    return (
        all(
            a.name == b.name and np.array_equal(a.values, b.values)
            for a, b in zip(left.sections, right.sections, strict=True)
        )
        and left.work == right.work
        and left.memory.keys() == right.memory.keys()
        and all(np.array_equal(left.memory[key], right.memory[key]) for key in left.memory)
    )


def test_train_returns_the_update_and_what_was_done(
    tiny_card: MakeCard, examples: Examples
) -> None:
    card = tiny_card()
    work = task(card, examples)

    result = trainer(card).train(work)

    assert [section.name for section in result.sections] == ["trainable", "statistic", "counter"]
    assert result.work.samples == 32  # 14 + 13 + 13 examples, of which 8 are held out
    assert result.work.steps == 4
    assert result.work.lr_sum == math.fsum([0.05] * 4)
    assert set(result.work.metrics) == {
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
    }
    assert result.memory == {}
    counters = result.sections[2].values
    assert counters.dtype == np.int64
    assert counters.tolist() == [4]
    statistics = result.sections[1].values
    assert not np.array_equal(statistics, work.received.statistics)


def test_train_without_held_out_examples_has_no_validation_metrics(
    tiny_card: MakeCard, examples: Examples
) -> None:
    card = tiny_card()

    work = trainer(card, validation_fraction=0.0).train(task(card, examples)).work

    assert work.samples == 40
    assert set(work.metrics) == {"train_loss", "train_accuracy"}


def test_validation_metrics_are_those_of_the_trained_version_on_the_held_out_examples(
    tiny_card: MakeCard, examples: Examples
) -> None:
    card = tiny_card()
    local, work = trainer(card), task(card, examples)
    result = local.train(work)
    delta, statistics, counters = (section.values for section in result.sections)
    trained = ModelState(local.schema, work.received.trainable + delta, statistics, counters)

    _, held_out = split_validation(examples, 0.2, 3)
    evaluation = local.evaluate(trained, held_out)

    metrics = result.work.metrics
    # The plug-in's uncarried buffer had moved by the end of training, hence not exactly.
    assert metrics["validation_loss"] == pytest.approx(evaluation.loss, rel=0.05)


CONFIGS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "clip_norm": 0.5, "augment": "flip-crop", "epochs": 2},
    {"optimizer": "adam", "lr": 0.01, "channels_last": True},
    {"optimizer": "adamw", "lr": 0.01, "amp": "bfloat16", "batchnorm_momentum": 0.4},
    {"scheduler": "plateau", "plateau_patience": 0, "epochs": 3},
    {"scheduler": "cosine", "label_smoothing": 0.1},
]
OTHER_WORK = st.lists(
    st.one_of(
        st.tuples(st.just("train"), st.integers(0, 2**63 - 1), st.integers(1, 4)),
        st.tuples(st.just("evaluate"), st.integers(0, 100), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 100), st.integers(1, 3)),
        st.tuples(st.just("diverge"), st.integers(0, 100), st.just(1)),
    ),
    min_size=1,
    max_size=3,
)


@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("options", CONFIGS, ids=str)
@given(others=OTHER_WORK, global_seed=st.integers(0, 2**31))
def test_a_result_depends_on_the_task_alone(
    tiny_card: MakeCard,
    examples: Examples,
    options: dict[str, Any],
    others: list[tuple[str, int, int]],
    global_seed: int,
) -> None:
    card = tiny_card(dropout=0.3)
    work = task(card, examples, round=2)
    want = trainer(card, **options).train(work)
    resident = trainer(card, **options)

    torch.manual_seed(global_seed)
    for kind, seed, number in others:
        _do(resident, card, examples, kind, seed, number)

    assert same(resident.train(work), want)


def _do(
    local: LocalTrainer, card: ModelCard, examples: Examples, kind: str, seed: int, number: int
) -> None:
    """Some other work on the resident module, ended in one way or another."""
    received = initial_state(card, seed)
    if kind == "evaluate":
        local.evaluate(received, examples)
    elif kind == "train":
        local.train(task(card, examples, received=received, seed=seed, round=number))
    elif kind == "cancel":
        steps = iter(range(100))
        stop = task(card, examples, seed=seed, cancelled=lambda: next(steps) == number)
        with pytest.raises(TrainingFailed):
            local.train(stop)
    else:
        poisoned = replace(received, trainable=received.trainable * np.float32(np.nan))
        with pytest.raises(TrainingFailed):
            local.train(task(card, examples, received=poisoned))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_tasks_leave_torchs_global_state_alone(
    tiny_card: MakeCard, examples: Examples, dropout: float
) -> None:
    card = tiny_card(dropout=dropout)
    torch.manual_seed(11)
    rng, threads = torch.get_rng_state(), torch.get_num_threads()

    local = trainer(card, threads=1)
    local.train(task(card, examples))
    local.evaluate(initial_state(card, 1), examples)

    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("changes", [{"seed": 6}, {"round": 2}, {"split_seed": 4}], ids=str)
def test_seeds_and_round_give_other_randomness(
    tiny_card: MakeCard, examples: Examples, changes: dict[str, int]
) -> None:
    card = tiny_card()
    local = trainer(card)

    assert not same(local.train(task(card, examples)), local.train(task(card, examples, **changes)))


def test_evaluate_does_not_depend_on_batch_size(tiny_card: MakeCard, examples: Examples) -> None:
    card = tiny_card(dropout=0.3)
    state = initial_state(card, 1)

    small, large = (trainer(card, size).evaluate(state, examples) for size in (3, 64))

    assert small.correct == large.correct
    assert small.class_predicted == large.class_predicted
    assert small.loss_sum == pytest.approx(large.loss_sum, rel=1e-6)


def test_a_trained_model_is_better_on_new_examples(mlp_card: ModelCard, examples: Examples) -> None:
    local, work = trainer(mlp_card, epochs=10), task(mlp_card, examples)
    delta, statistics, counters = (section.values for section in local.train(work).sections)
    trained = ModelState(local.schema, work.received.trainable + delta, statistics, counters)
    fresh = Examples(examples.images[::-1], examples.labels[::-1])

    assert local.evaluate(trained, fresh).accuracy > 0.9
    assert local.evaluate(work.received, fresh).accuracy < 0.7


def test_algorithm_adjusts_every_step_and_keeps_its_own_memory(
    tiny_card: MakeCard, examples: Examples
) -> None:
    card, algorithm = tiny_card(), Recording()
    local = trainer(card, scheduler="plateau", plateau_patience=0, validation_fraction=0.2)
    memory: Memory = {}

    for round in (1, 2, 3):
        memory = local.train(
            task(card, examples, algorithm=algorithm, memory=memory, round=round)
        ).memory

    assert algorithm.adjusted == sum(work.steps for work in algorithm.works) == 12
    assert [dict(m) for m in algorithm.memories] == [
        {},
        {},
        {"rounds": 1},
        {"rounds": 1},
        {"rounds": 2},
        {"rounds": 2},
    ]
    assert set(memory) == {"rounds", "training.lr", "training.best_loss", "training.bad_epochs"}


def test_adjuster_changes_the_update(tiny_card: MakeCard, examples: Examples) -> None:
    card = tiny_card()
    local = trainer(card)

    pulled = local.train(task(card, examples, algorithm=Recording())).sections[0].values
    plain = local.train(task(card, examples)).sections[0].values

    assert 0 < np.linalg.norm(pulled) < np.linalg.norm(plain)


def test_plateau_lowers_the_rate_across_rounds_by_memory(
    tiny_card: MakeCard, examples: Examples
) -> None:
    card = tiny_card()
    local = trainer(card, scheduler="plateau", plateau_factor=0.5, plateau_patience=1)
    work = task(card, examples)
    memory = local.train(work).memory
    sums = []

    for _ in range(4):  # the same round again and again cannot get better than it was
        result = local.train(replace(work, memory=memory))
        memory = result.memory
        sums.append(result.work.lr_sum)

    assert sums == pytest.approx([0.2, 0.2, 0.1, 0.1])
    assert float(memory["training.lr"]) == 0.0125  # lowered again after the last
    assert sorted(work.memory) == []


def test_cosine_anneals_over_the_rounds(tiny_card: MakeCard, examples: Examples) -> None:
    card = tiny_card()
    local = trainer(card, scheduler="cosine")

    works = [local.train(task(card, examples, round=round)).work for round in (1, 2, 3, 4)]

    total = sum(work.steps for work in works)
    assert total == 16
    want = [0.05 * (1 + math.cos(math.pi * step / total)) / 2 for step in range(total)]
    assert [work.lr_sum for work in works] == [
        pytest.approx(math.fsum(want[4 * r : 4 * r + 4])) for r in range(4)
    ]


def test_progress_ends_at_one(tiny_card: MakeCard, examples: Examples) -> None:
    card = tiny_card()
    seen: list[float] = []

    trainer(card).train(task(card, examples, on_progress=seen.append))

    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_split_is_the_same_whatever_seed_and_round(tiny_card: MakeCard, examples: Examples) -> None:
    """Training on other examples than those held out is what makes validation honest."""
    card = tiny_card()
    local = trainer(card, lr=1e-30, batchnorm_momentum=1e-30)

    losses = {
        local.train(task(card, examples, seed=derive(0, round), round=round)).work.metrics[
            "validation_loss"
        ]
        for round in (1, 2, 3)
    }

    assert len(losses) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="expects the CPU's answers")
@pytest.mark.parametrize(
    ("options", "changes", "error", "text"),
    [
        ({"lr": 1e38}, {}, TrainingFailed, r"lower training\.lr"),
        ({"amp": "float16", "device": "auto"}, {}, RecipeInvalid, r'training\.amp = "float16"'),
        ({}, {"examples": EMPTY}, DataEmpty, "no example"),
        ({}, {"cancelled": lambda: True}, TrainingFailed, "cancelled"),
    ],
    ids=["diverged", "float16", "empty", "cancelled"],
)
def test_train_fails_with_a_stable_code(
    mlp_card: ModelCard,
    examples: Examples,
    options: dict[str, Any],
    changes: dict[str, Any],
    error: type[FedFleetError],
    text: str,
) -> None:
    with pytest.raises(error, match=text) as caught:
        trainer(mlp_card, **options).train(task(mlp_card, **{"examples": examples, **changes}))

    assert caught.value.code == error.code


def test_weights_that_overflow_in_the_last_step_are_noticed(
    mlp_card: ModelCard, examples: Examples
) -> None:
    local = trainer(mlp_card, lr=3e38, batch_size=64, validation_fraction=0.0, weight_decay=1e5)

    with pytest.raises(TrainingFailed, match="a weight is not finite after 1 steps") as caught:
        local.train(task(mlp_card, examples))

    assert caught.value.code == "TRAINING_FAILED"


def test_train_refuses_data_and_versions_of_another_model(
    mlp_card: ModelCard, tiny_card: MakeCard, examples: Examples
) -> None:
    local = trainer(mlp_card)
    wide = Examples(np.zeros((4, 1, 8, 9), np.uint8), np.zeros(4, np.int64))

    with pytest.raises(DataInvalid) as data:
        local.train(task(mlp_card, wide))
    with pytest.raises(DataInvalid) as labels:
        local.evaluate(initial_state(mlp_card, 1), Examples(examples.images, examples.labels + 1))
    with pytest.raises(SchemaMismatch) as version:
        local.train(task(tiny_card(), examples))

    assert data.value.code == labels.value.code == "DATA_INVALID"
    assert version.value.code == "SCHEMA_MISMATCH"


def test_train_refuses_a_model_with_another_number_of_classes(
    tiny_card: MakeCard, examples: Examples
) -> None:
    card = tiny_card(extra_outputs=1)

    with pytest.raises(RecipeInvalid, match=r"answers with shape \(8, 4\)") as caught:
        trainer(card).train(task(card, examples))

    assert caught.value.code == "RECIPE_INVALID"


def test_read_only_inputs_are_taken_and_left_unchanged(
    tiny_card: MakeCard, examples: Examples
) -> None:
    card = tiny_card()
    work = task(card, examples)
    for kind in Kind:
        work.received.vector(kind).flags.writeable = False
    examples.images.flags.writeable = False
    examples.labels.flags.writeable = False

    result = trainer(card, validation_fraction=0.0).train(work)

    assert result.work.samples == 40


# Work that is cut short

CUT_ALGORITHMS = {
    "fedavg": FEDAVG,
    "fedprox": FedProx(FedProxOptions(mu=0.1)),
    "fednova": FedNova(FedAvgOptions()),
    "feddyn": FedDyn(FedDynOptions(alpha=0.1)),
    "scaffold I": Scaffold(ScaffoldOptions(option="I")),
    "scaffold II": Scaffold(ScaffoldOptions(option="II")),
}


@pytest.mark.parametrize("name", CUT_ALGORITHMS)
def test_train_that_is_cut_after_an_epoch_is_training_of_that_epoch(
    name: str, tiny_card: MakeCard, examples: Examples
) -> None:
    algorithm, card = CUT_ALGORITHMS[name], tiny_card()
    long, short = trainer(card, epochs=3), trainer(card, epochs=1)
    broadcast = algorithm.broadcast(long.schema, algorithm.start(long.schema))
    work = task(card, examples, algorithm=algorithm, broadcast=broadcast)
    steps = iter(range(12))

    cut = long.train(replace(work, until=lambda: next(steps) == 3))
    whole = short.train(work)

    assert cut.work.metrics["worker.partial"] == pytest.approx(1 / 3)
    assert "worker.partial" not in whole.work.metrics
    assert (cut.work.steps, cut.work.lr_sum) == (whole.work.steps, whole.work.lr_sum)
    assert cut.work.samples == whole.work.samples  # a straggler counts by its examples
    for ours, theirs in zip(cut.sections, whole.sections, strict=True):
        assert ours.name == theirs.name
        assert np.array_equal(ours.values, theirs.values)
    assert cut.memory.keys() == whole.memory.keys()
    assert all(np.array_equal(cut.memory[key], whole.memory[key]) for key in cut.memory)


@pytest.mark.parametrize(
    ("algorithm", "round", "partial_work", "steps"),
    [
        (FEDAVG, 1, True, 1),
        (FEDAVG, 1, False, 8),
        (FedGW(FedGWOptions()), 1, True, 8),
        (FedSeq(FedSeqOptions()), 2, True, 1),
    ],
)
def test_train_is_cut_where_recipe_and_algorithm_take_partial_work(
    algorithm: Any,
    round: int,
    partial_work: bool,
    steps: int,
    mlp_card: ModelCard,
    examples: Examples,
) -> None:
    work = task(mlp_card, examples, algorithm=algorithm, round=round, until=lambda: True)

    result = trainer(mlp_card, epochs=2, partial_work=partial_work).train(work)

    assert result.work.steps == steps


def test_fedseq_describes_workers_by_whole_work_alone() -> None:
    fedseq = FedSeq(FedSeqOptions())

    assert [fedseq.takes_partial(round) for round in (1, 2, 3)] == [False, True, True]


def half_of(card: ModelCard) -> ModelCard:
    return replace(card, model=narrowed(card.model, 0.5))


def hooks(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) for layer in module.modules())


def test_rate_divides_outputs_in_training_alone(mlp_card: ModelCard, examples: Examples) -> None:
    half = half_of(mlp_card)
    config = TrainingConfig(lr=0.05, batch_size=0, device="cpu", threads=1)
    plain, scaled = (
        LocalTrainer(half, config, EvaluationConfig(), rate=rate) for rate in (1.0, 0.5)
    )
    work, state = task(half, examples), initial_state(half, 1)

    losses = [one.train(work).work.metrics["train_loss"] for one in (plain, scaled)]

    assert hooks(plain._module) == 0
    assert hooks(scaled._module) == 1
    assert losses[0] != losses[1]
    assert plain.evaluate(state, examples) == scaled.evaluate(state, examples)
    # Twice the hidden outputs is what a network with twice those weights gives in evaluation.
    tensors = state.tensors()
    names = ("layers.1.weight", "layers.1.bias")
    doubled = {k: v * 2 if k in names else v for k, v in tensors.items()}
    training, _ = split_validation(examples, config.validation_fraction, 3)
    louder = plain.evaluate(ModelState.from_tensors(state.schema, doubled), training)
    assert losses[1] == pytest.approx(louder.loss, rel=1e-5)


def test_ordered_dropout_trains_parts_the_same_way_each_time(
    mlp_card: ModelCard, examples: Examples
) -> None:
    config = TrainingConfig(lr=0.05, batch_size=4, device="cpu", threads=1, ordered_dropout=True)
    whole = LocalTrainer(mlp_card, replace(config, ordered_dropout=False), EvaluationConfig())
    parts = LocalTrainer(mlp_card, config, EvaluationConfig(), drop_rates=(1.0, 0.5, 0.25))
    alone = LocalTrainer(mlp_card, config, EvaluationConfig())
    work = task(mlp_card, examples)

    first, other = parts.train(work), parts.train(replace(work, seed=6))

    assert same(first, parts.train(work))
    assert not same(first, other)
    assert not same(first, whole.train(work))
    assert same(alone.train(work), whole.train(work))


def test_ordered_dropout_moves_the_first_channels_most(
    mlp_card: ModelCard, examples: Examples
) -> None:
    config = TrainingConfig(lr=0.05, batch_size=2, device="cpu", threads=1, ordered_dropout=True)
    parts = LocalTrainer(mlp_card, config, EvaluationConfig(), drop_rates=(0.25,))

    update = parts.train(task(mlp_card, examples)).sections[0].values
    again = LocalTrainer(mlp_card, config, EvaluationConfig()).train(task(mlp_card, examples))

    bias = slice(8 * 64, 8 * 64 + 8)  # of 8 hidden units, of which the quarter holds 2
    late = np.abs(update[bias])[2:] < np.abs(again.sections[0].values[bias])[2:]
    assert late.mean() > 0.5


def test_ordered_dropout_of_a_model_with_statistics_is_refused(
    tiny_card: MakeCard,
) -> None:
    with pytest.raises(RecipeInvalid, match=r"ordered_dropout = true: the model keeps statistics"):
        trainer(tiny_card(), ordered_dropout=True)


def test_masked_classes_keep_their_rows(mlp_card: ModelCard, examples: Examples) -> None:
    two = examples.take(np.flatnonzero(examples.labels < 2))

    update = trainer(mlp_card, mask_absent=True).train(task(mlp_card, two)).sections[0].values

    rows = update[-27:-3].reshape(3, 8)
    assert (rows[2] == 0).all()
    assert update[-1] == 0
    assert (rows[:2] != 0).any(1).all()
