from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import SCHEMA, header, sections

from fedfleet.aggregation.accumulator import UpdateAccumulator
from fedfleet.algorithms.base import LocalWork, Memory, Received, RoundResult, Trained
from fedfleet.algorithms.fedgw import MAX_EPOCHS, FedGW, FedGWOptions, gaussian_rewards
from fedfleet.algorithms.plan import MAIN
from fedfleet.data.config import DataConfig, DigitsOptions
from fedfleet.data.shard import Examples, load_examples
from fedfleet.errors import UpdateInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.config import MlpOptions, ModelConfig
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.local import LocalTrainer, TrainTask
from fedfleet.training.state import initial_state
from fedfleet.types import InputSpec, Kind, ModelState, Section, Update, UpdateHeader

FEDGW = FedGW(FedGWOptions())


def reporting(losses: dict[str, list[float]]) -> list[UpdateHeader]:
    return [
        header(
            worker_id=worker,
            metrics={f"algorithm.fedgw_loss_{epoch:02d}": loss for epoch, loss in enumerate(own)},
        )
        for worker, own in losses.items()
    ]


def papers_rewards(losses: list[list[float]], weights: list[float]) -> list[float]:
    """The equations of algorithms.md 2.11, one worker and one epoch at a time."""
    count, epochs = len(losses), len(losses[0])
    shares = [w / sum(weights) for w in weights]
    rewards = [0.0] * count
    for e in range(epochs):
        mean = sum(o * own[e] for o, own in zip(shares, losses, strict=True))
        variance = sum((own[e] - mean) ** 2 for own in losses) / (count - 1)
        mean_square = sum(o * o for o in shares) / count
        variance *= mean_square / (sum(shares) / count) ** 2 / count
        for k, own in enumerate(losses):
            rewards[k] += math.exp(-((own[e] - mean) ** 2) / (2 * variance)) / epochs
    return [reward / sum(rewards) for reward in rewards]


def test_rewards_are_the_papers() -> None:
    losses = [[1.0, 0.8], [1.1, 0.7], [0.9, 0.9], [2.0, 1.9]]
    weights = [0.1, 0.2, 0.3, 0.4]

    found = gaussian_rewards(np.array(losses), np.array(weights))

    np.testing.assert_allclose(found / found.sum(), papers_rewards(losses, weights), rtol=1e-12)


@pytest.mark.parametrize(
    "losses",
    # One worker alone, and no variance: .7 times shares that add up to 1 need not be .7.
    [[[0.7, 0.3]], [[0.7]] * 3],
)
def test_weights_stay_where_the_losses_say_nothing(losses: list[list[float]]) -> None:
    before = [1 / 3, 2.0, 5.0][: len(losses)]
    memory = {f"fedgw.w{k}": np.array(weight) for k, weight in enumerate(before)}

    weights = FEDGW.weights(reporting({f"w{k}": own for k, own in enumerate(losses)}), memory)

    np.testing.assert_allclose(weights, before, rtol=1e-12)


def test_epoch_in_which_all_losses_are_equal_says_nothing() -> None:
    both = gaussian_rewards(np.array([[1.0, 5.0], [2.0, 5.0], [1.1, 5.0]]), np.ones(3))
    one = gaussian_rewards(np.array([[1.0], [2.0], [1.1]]), np.ones(3))

    np.testing.assert_allclose(both / both.sum(), one / one.sum(), rtol=1e-12)


def test_rewards_of_a_large_cohort_do_not_all_vanish() -> None:
    """Two camps: every worker is sqrt(n) standard errors from the mean, and exp(-n/2) is zero."""
    losses = np.repeat([[0.0], [1.0]], 2000, axis=0)

    rewards = gaussian_rewards(losses, np.ones(4000))

    np.testing.assert_allclose(rewards / rewards.sum(), 1 / 4000)


finite_losses = st.floats(0, 1e6) | st.sampled_from([0.0, 1e-320, 1e100])


@given(
    st.lists(st.tuples(finite_losses, finite_losses, st.floats(1e-6, 1e3)), min_size=1, max_size=8)
)
def test_weights_keep_the_sum_of_the_cohort_and_stay_above_zero(
    workers: list[tuple[float, float, float]],
) -> None:
    losses = {f"w{k}": [a, b] for k, (a, b, _) in enumerate(workers)}
    memory = {f"fedgw.w{k}": np.array(w) for k, (_, _, w) in enumerate(workers)}

    weights = FEDGW.weights(reporting(losses), memory)

    before = sum(w for _, _, w in workers)
    assert sum(weights) == pytest.approx(before, rel=1e-9)
    assert min(weights) >= 1e-7 * before / len(weights)


def test_step_keeps_the_weights_by_which_it_took_the_mean_and_those_of_absent_workers() -> None:
    headers = reporting({"w0": [1.0], "w1": [1.2], "w2": [4.0]})
    memory: Memory = {"fedgw.away": np.array(0.25)}
    algorithm, base = FEDGW, small(0.0)
    total = UpdateAccumulator(base.schema, policy="average", max_updates=3, max_weight=10)
    weights = algorithm.weights(headers, memory)
    for one, weight in zip(headers, weights, strict=True):
        total.add(Update(one, sections_of(base, float(one.worker_id[1]))), weight)

    outcome = algorithm.step(RoundResult(base, {MAIN: total.result()}, headers, memory, 4))

    kept = {name: float(array) for name, array in outcome.memory.items()}
    assert kept == {
        "fedgw.away": 0.25,
        **{f"fedgw.w{k}": weight for k, weight in enumerate(weights)},
    }
    assert sum(kept.values()) == pytest.approx(3.25)
    assert outcome.state.trainable[0] == pytest.approx((weights[1] + 2 * weights[2]) / 3, rel=1e-5)


def small(value: float) -> ModelState:
    return ModelState(
        SCHEMA,
        np.full(SCHEMA.elements(Kind.TRAINABLE), value, np.float32),
        np.ones(SCHEMA.elements(Kind.STATISTIC), np.float32),
        np.zeros(SCHEMA.elements(Kind.COUNTER), np.int64),
    )


def sections_of(base: ModelState, delta: float) -> tuple[Section, ...]:
    values = {Kind.TRAINABLE: np.full(base.trainable.shape, delta, np.float32)}
    return sections(base.schema, values)


def test_finish_reports_the_loss_of_each_epoch_up_to_what_a_header_holds() -> None:
    base = small(0.0)
    losses = tuple(float(epoch) for epoch in range(60))
    work = LocalWork(samples=1, steps=1, lr_sum=1.0, reach=1.0, epoch_losses=losses)

    finished = FEDGW.finish(
        Received(base, {}, {}), Trained(base, base, work, lambda: base.trainable)
    )

    assert len(finished.metrics) == MAX_EPOCHS
    assert finished.metrics["algorithm.fedgw_loss_00"] == 0.0
    assert finished.metrics["algorithm.fedgw_loss_47"] == 47.0


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"algorithm.fedgw_loss_01": 1.0},
        {"algorithm.fedgw_loss_00": -0.5},
        {"algorithm.fedgw_loss_00": 1e101},
        {"algorithm.fedgw_loss_00": 1.0, "algorithm.fedgw_loss_01": -1.0},
    ],
)
def test_header_without_losses_is_refused(metrics: dict[str, float]) -> None:
    with pytest.raises(UpdateInvalid, match=r"algorithm\.fedgw_loss_00"):
        FEDGW.check_header(header(metrics=metrics))


def test_workers_that_report_different_epochs_are_compared_by_those_of_all() -> None:
    weights = FEDGW.weights(reporting({"w0": [1.0, 9.0], "w1": [2.0], "w2": [1.1, 3.0]}), {})

    assert weights == FEDGW.weights(reporting({"w0": [1.0], "w1": [2.0], "w2": [1.1]}), {})


def test_workers_with_noisy_or_one_sided_data_come_to_count_less_than_half() -> None:
    """Digits: three clean workers, two with noise, one with a single class; five rounds.

    One epoch each, so that the clean losses are still far from the single class's: the losses are
    all that the method sees, and it takes that worker back when they have met.
    """
    card = ModelCard(
        model=ModelConfig(architecture="mlp", options=MlpOptions(hidden=(16,))),
        inputs=InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.4,)),
        classes=tuple("0123456789"),
    )
    training = TrainingConfig(
        lr=0.1, batch_size=16, device="cpu", threads=1, validation_fraction=0.0
    )
    trainer = LocalTrainer(card, training, EvaluationConfig())
    shards = spoiled_shards()
    state, memory = initial_state(card, 1), FEDGW.start(trainer.schema)
    for round in range(1, 6):
        updates = [train(trainer, state, shard, place, round) for place, shard in enumerate(shards)]
        headers = [one.header for one in updates]
        total = UpdateAccumulator(
            trainer.schema, policy="average", max_updates=len(shards), max_weight=len(shards)
        )
        for one, weight in zip(updates, FEDGW.weights(headers, memory), strict=True):
            FEDGW.check_header(one.header)
            total.add(one, weight)
        outcome = FEDGW.step(
            RoundResult(state, {MAIN: total.result()}, headers, memory, len(shards))
        )
        state, memory = outcome.state, outcome.memory

    weights = [float(memory[f"fedgw.w{place}"]) for place in range(6)]
    clean = sum(weights[:3]) / 3
    assert sum(weights) == pytest.approx(6.0)
    assert max(weights[4:]) < clean / 2, weights


def spoiled_shards() -> list[Examples]:
    config = DataConfig(dataset="digits", options=DigitsOptions(), partition="iid", workers=8)
    shards = [
        load_examples(config, "train", seed=1, shard=place, data_dir=None) for place in range(5)
    ]
    noise = np.random.default_rng(0)
    for place, share in ((3, 1), (4, 2)):  # of uniform noise to one of the image
        images = shards[place].images / (1 + share)
        images += noise.uniform(0, 255 * share / (1 + share), images.shape)
        shards[place] = Examples(images.astype(np.uint8), shards[place].labels)
    whole = DataConfig(dataset="digits", options=DigitsOptions())
    everything = load_examples(whole, "train", seed=1, shard=None, data_dir=None)
    return [*shards, everything.take(np.flatnonzero(everything.labels == 2)[:160])]


def train(
    trainer: LocalTrainer, state: ModelState, shard: Examples, place: int, round: int
) -> Update:
    result = trainer.train(
        TrainTask(
            algorithm=FEDGW,
            received=state,
            examples=shard,
            seed=100 * round + place,
            split_seed=place,
            round=round,
            rounds=5,
            memory={},
        )
    )
    made = header(trainer.schema, worker_id=f"w{place}", metrics=dict(result.work.metrics))
    return Update(made, result.sections)
