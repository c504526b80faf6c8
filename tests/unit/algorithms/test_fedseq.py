from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from samples import SCHEMA, header, sections, state

from fedfleet.algorithms.base import LocalWork, Memory, Outcome, Received, Trained
from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.algorithms.fedseq import PROJECTED, FedSeq, FedSeqOptions, projected
from fedfleet.algorithms.plan import MAIN, Plan, PlanRequest
from fedfleet.errors import FedFleetError, RecipeInvalid, UpdateInvalid
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.rounds.relay import relayed
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.types import FloatVector, Kind, ModelState, Update

WORKERS = tuple(f"w{i}" for i in range(6))
SAMPLES = dict(zip(WORKERS, (10.0, 20.0, 30.0, 40.0, 50.0, 60.0), strict=True))
# Three classes; a pair of workers together holds all of them.
LABELS = dict(zip(WORKERS, np.eye(6, 3, dtype=float) + np.eye(6, 3, -3) + 0.01, strict=True))
BASE = state(seed=9)


def recipe(algorithm: str, extra: str = "") -> Recipe:
    return parse_recipe(
        f"""
        name = "m"
        model = {{architecture = "mlp"}}
        data = {{dataset = "digits", workers = 6, partition = "iid"}}
        rounds = {{rounds = 9, cohort = 6, max_weight = 100{extra}}}
        algorithm = {{{algorithm}}}
        """
    )


def fedseq(options: str = "", extra: str = "") -> Recipe:
    return recipe(f'name = "fedseq"{options}', extra)


class Run:
    """Rounds whose workers move the model by a walk that their names and rounds draw."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.algorithm = make_algorithm(recipe.algorithm)
        self.outcome = Outcome(BASE, self.algorithm.start(SCHEMA))
        self.round = 0

    def plan(self, candidates: Sequence[str] = WORKERS, *, size: int = 6) -> Plan:
        return self.algorithm.plan(
            PlanRequest(self.round + 1, tuple(candidates), size, first, self.outcome.memory)
        )

    def next(self, plan: Plan | None = None, failing: Sequence[str] = ()) -> Run:
        """One round of a plan; who fails leaves its place in the chain to the next."""
        plan = plan or self.plan()
        self.round += 1
        base, memory = self.outcome.state, self.outcome.memory
        total = RoundSum(self.recipe, self.algorithm, base, memory)
        done: dict[str, tuple[str, Update]] = {}
        for chain in plan.chains:
            before: list[Update] = []
            for worker in chain.workers:
                if worker not in failing:
                    start = relayed(self.algorithm, base, memory, chain.lane, before)
                    before.append(self.update(start, worker))
                    done[worker] = (chain.lane, before[-1])
        headers = [done[worker][1].header for worker in sorted(done)]
        weights = total.weights(headers) if total.waits else [None] * len(headers)
        for one, weight in zip(headers, weights, strict=True):
            lane, update = done[one.worker_id]
            self.algorithm.check_header(update.header)
            total.fold(update, weight, lane=lane)
        self.outcome = total.outcome(headers, self.round)
        return self

    def update(self, start: ModelState, worker: str) -> Update:
        metrics: Mapping[str, float] = {}
        moves = {
            Kind.TRAINABLE: walk(start, worker, self.round),
            Kind.STATISTIC: start.statistics,
            Kind.COUNTER: start.counters + 1,
        }
        if isinstance(self.algorithm, FedSeq) and self.round == 1:
            finished = self.algorithm.finish(*trained(LABELS[worker], start))
            metrics = finished.metrics
            moves[Kind.TRAINABLE] = np.zeros(9, np.float32)
        return Update(
            header(
                worker_id=worker, round=self.round, weight=SAMPLES[worker], metrics=dict(metrics)
            ),
            sections(SCHEMA, moves),
        )


def first(names: Sequence[str], size: int) -> tuple[str, ...]:
    return tuple(sorted(names)[:size])


def walk(start: ModelState, worker: str, round: int) -> FloatVector:
    """A step that depends on where it begins, as training does."""
    random = np.random.default_rng((int(worker[1:]), round))
    step: FloatVector = (0.1 * random.normal(size=9) - 0.2 * start.trainable).astype(np.float32)
    return step


def trained(
    labels: FloatVector, start: ModelState = BASE, end: ModelState | None = None
) -> tuple[Received, Trained]:
    work = LocalWork(samples=10, steps=1, lr_sum=0.1, reach=0.1)
    received = Received(start, {}, {}, 1)
    confidences = partial(np.asarray, labels / labels.sum())
    return received, Trained(start, end or start, work, lambda: start.trainable, confidences)


def groups_of(memory: Memory) -> list[set[str]]:
    found: dict[int, set[str]] = {}
    for key, number in memory.items():
        found.setdefault(int(number), set()).add(key.rpartition(".")[2])
    return [found[number] for number in sorted(found)]


# Round 1


def test_first_round_takes_everybody_and_leaves_the_model_as_it_is() -> None:
    run = Run(fedseq(", min_examples = 1, max_workers = 3"))

    plan = run.plan(WORKERS[:4], size=4)
    run.next(run.plan())

    assert [chain.workers for chain in plan.chains] == [(w,) for w in WORKERS[:4]]
    assert plan.updates == 4
    assert run.outcome.state.trainable.tobytes() == BASE.trainable.tobytes()
    assert run.outcome.served is None
    assert sorted(name for group in groups_of(run.outcome.memory) for name in group) == list(
        WORKERS
    )


def test_first_round_groups_workers_whose_labels_complete_each_other() -> None:
    memory = Run(fedseq(", min_examples = 1000, max_workers = 3")).next().outcome.memory

    for group in groups_of(memory):
        held = sum(LABELS[worker] for worker in group)
        assert held.max() < 1.1 * held.min()


def test_description_of_another_length_is_not_compared_and_spoils_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = groups_of(
        Run(fedseq(", min_examples = 1000, max_workers = 3"))
        .next(Run(fedseq()).plan(WORKERS[:5], size=5))
        .outcome.memory
    )
    monkeypatch.setitem(LABELS, WORKERS[5], np.ones(1, np.float32))

    run = Run(fedseq(", share = 1.0, min_examples = 1000, max_workers = 3")).next()

    assert groups_of(run.outcome.memory) == wanted
    assert (WORKERS[5],) in [chain.workers for chain in run.plan().chains]


def test_first_round_trains_for_the_epochs_of_grouping() -> None:
    algorithm = FedSeq(FedSeqOptions(grouping_epochs=7))

    assert [algorithm.epochs(round, 2) for round in (1, 2, 3)] == [7, 2, 2]


def test_worker_sends_what_its_model_learned_of_the_labels_and_no_model() -> None:
    end = replace(BASE, trainable=BASE.trainable + 1, counters=BASE.counters + 5)

    finished = FedSeq(FedSeqOptions()).finish(*trained(np.array([3.0, 1.0]), end=end))

    assert finished.metrics == {"algorithm.fedseq_0000": 0.75, "algorithm.fedseq_0001": 0.25}
    found = {section.name: section.values for section in finished.sections}
    assert not found["trainable"].any()
    assert found["counter"].tolist() == BASE.counters.tolist()


def test_worker_sends_its_model_from_the_second_round_on() -> None:
    end = replace(BASE, trainable=BASE.trainable + 1)
    received, work = trained(np.ones(2), end=end)

    finished = FedSeq(FedSeqOptions()).finish(replace(received, round=2), work)

    assert finished.metrics == {}
    np.testing.assert_allclose(finished.sections[0].values, np.ones(9), rtol=1e-5)


def test_more_classes_than_an_update_has_room_for_are_refused_by_the_worker() -> None:
    with pytest.raises(FedFleetError, match="classifier"):
        FedSeq(FedSeqOptions()).finish(*trained(np.ones(1001)))


def test_classifiers_are_described_by_random_signs_that_keep_lengths() -> None:
    options = FedSeqOptions(approximator="classifier", measure="cosine")
    end = replace(BASE, trainable=BASE.trainable + np.arange(9, dtype=np.float32))

    algorithm = FedSeq(options)
    finished = algorithm.finish(*trained(np.ones(2), end=end))

    assert algorithm.exemplars == 0
    assert len(finished.metrics) == PROJECTED
    long = np.random.default_rng(0).normal(size=5000)
    assert np.linalg.norm(projected(long)) / np.linalg.norm(long) == pytest.approx(1, abs=0.3)
    np.testing.assert_allclose(projected(2 * long), 2 * projected(long))


@pytest.mark.parametrize(
    ("values", "approximator"),
    [
        ([], "confidence"),
        ([0.5, 0.6], "confidence"),
        ([1.5, -0.5], "confidence"),
        ([float("nan"), 1.0], "confidence"),
        ([float("inf")], "classifier"),
    ],
)
def test_update_without_a_description_is_refused_in_the_first_round(
    values: list[float], approximator: str
) -> None:
    options = FedSeqOptions(approximator=approximator, measure="cosine")  # type: ignore[arg-type]
    metrics = {f"algorithm.fedseq_{i:04d}": value for i, value in enumerate(values)}

    with pytest.raises(UpdateInvalid, match="describe"):
        FedSeq(options).check_header(header(round=1, metrics=metrics))
    FedSeq(options).check_header(header(round=2, metrics={}))


# Plans


def test_groups_train_as_chains_in_another_order_each_round() -> None:
    run = Run(fedseq(", share = 1.0, min_examples = 1000, max_workers = 3")).next()
    groups = groups_of(run.outcome.memory)

    plans = [run.next().plan() for _ in range(8)]

    for plan in plans:
        assert [set(chain.workers) for chain in plan.chains] == groups
        assert plan.updates == 6
        assert {chain.lane for chain in plan.chains} == {MAIN}
    assert len({plan.chains[0].workers for plan in plans}) > 2


def test_share_of_the_groups_is_drawn_by_the_selection() -> None:
    run = Run(fedseq(", share = 0.5, min_examples = 1000, max_workers = 3")).next()

    plan = run.plan()

    # Of two groups, the first by name; and only who is there.
    assert [set(chain.workers) for chain in plan.chains] == groups_of(run.outcome.memory)[:1]
    there = sorted(groups_of(run.outcome.memory)[0])[1:]
    assert run.plan(there).workers == tuple(run.plan(there).chains[0].workers)
    assert sorted(run.plan(there).workers) == there


def test_worker_that_came_after_the_grouping_is_a_group_alone() -> None:
    run = Run(fedseq(", share = 1.0, min_examples = 1000, max_workers = 3"))
    run.next(run.plan(WORKERS[:5], size=5))

    chains = run.plan().chains

    assert ("w5",) in [chain.workers for chain in chains]
    run.next()  # and its update counts
    assert np.isfinite(run.outcome.state.trainable).all()


def test_later_attempt_of_a_round_draws_no_more_groups_than_are_missing() -> None:
    run = Run(fedseq(", share = 1.0, min_examples = 1, max_workers = 1")).next()

    plan = run.plan(("w1", "w3", "w4"), size=2)

    assert len(plan.chains) == plan.updates == 2


# What a round leads to


def test_groups_of_one_are_fedavg_by_samples() -> None:
    alone = Run(fedseq(", share = 1.0, min_examples = 1")).next().next().next()
    average = Run(recipe('name = "fedavg"'))
    average.round = 1  # whose first round is FedSeq's second
    average.next().next()

    np.testing.assert_allclose(
        alone.outcome.state.trainable, average.outcome.state.trainable, rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        alone.outcome.state.statistics, average.outcome.state.statistics, rtol=1e-6
    )


def by_hand(start: ModelState, chain: Sequence[str], round: int) -> FloatVector:
    """What training one after the other gives."""
    for worker in chain:
        moved = start.trainable + walk(start, worker, round)
        start = replace(start, trainable=moved)
    return start.trainable


def test_chain_is_training_one_after_the_other() -> None:
    run = Run(fedseq(", share = 1.0, min_examples = 100000, max_workers = 99")).next()
    (chain,) = run.plan().chains

    run.next()

    expected = by_hand(BASE, chain.workers, 2)
    np.testing.assert_allclose(run.outcome.state.trainable, expected, rtol=1e-5, atol=1e-6)


def test_groups_are_averaged_by_their_examples() -> None:
    run = Run(fedseq(", share = 1.0, min_examples = 1000, max_workers = 3")).next()
    chains = run.plan().chains

    run.next()

    sizes = [sum(SAMPLES[worker] for worker in chain.workers) for chain in chains]
    ends = [by_hand(BASE, chain.workers, 2) for chain in chains]
    expected = np.average(ends, axis=0, weights=sizes)
    np.testing.assert_allclose(run.outcome.state.trainable, expected, rtol=1e-5, atol=1e-6)


def test_worker_that_fails_is_left_out_of_its_chain() -> None:
    run = Run(fedseq(", share = 1.0, min_examples = 100000, max_workers = 99")).next()
    (chain,) = run.plan().chains
    gone = chain.workers[2]

    run.next(failing=[gone])

    rest = [worker for worker in chain.workers if worker != gone]
    np.testing.assert_allclose(
        run.outcome.state.trainable, by_hand(BASE, rest, 2), rtol=1e-5, atol=1e-6
    )


# The bank

BANK = ", share = 1.0, min_examples = 1000, max_workers = 3, interval = {}"


def test_first_round_of_a_bank_is_a_round_of_fedseq() -> None:
    """``interval = 1`` goes another way, over a single weighted sum."""
    one = Run(fedseq(BANK.format(1))).next().next()
    bank = Run(fedseq(BANK.format(2))).next().next()

    np.testing.assert_allclose(
        bank.outcome.state.trainable, one.outcome.state.trainable, rtol=1e-5, atol=1e-6
    )


def test_bank_goes_on_model_by_model_until_it_is_averaged() -> None:
    run = Run(fedseq(BANK.format(3))).next()
    models = {"0": BASE, "1": BASE}
    seen = {"0": 0.0, "1": 0.0}
    for round in (2, 3, 4):
        chains = run.plan().chains
        assert sorted(chain.lane for chain in chains) == ["0", "1"]

        run.next()

        for chain in chains:
            end = by_hand(models[chain.lane], chain.workers, round)
            models[chain.lane] = replace(models[chain.lane], trainable=end)
            seen[chain.lane] += sum(SAMPLES[worker] for worker in chain.workers)
        mean = np.average(
            [models[lane].trainable for lane in "01"], axis=0, weights=[seen[k] for k in "01"]
        )
        # What is published is the mean, also in between.
        np.testing.assert_allclose(run.outcome.state.trainable, mean, rtol=1e-5, atol=1e-5)
        kept = any(key.startswith("fedseq.lane.") for key in run.outcome.memory)
        assert kept == (round < 4)
    # The next period begins from the mean, on every lane.
    for lane in "01":
        found = run.algorithm.lane_state(lane, run.outcome.state, run.outcome.memory)
        assert found is run.outcome.state


def test_group_trains_another_model_of_the_bank_in_other_rounds() -> None:
    run = Run(fedseq(BANK.format(9))).next()

    lanes = {tuple(chain.lane for chain in run.next().plan().chains) for _ in range(8)}

    assert lanes == {("0", "1"), ("1", "0")}


def test_model_of_the_bank_that_nobody_trained_is_what_the_bank_began_with() -> None:
    run = Run(fedseq(BANK.format(5))).next()
    plan = run.plan()
    alone = Plan(plan.chains[:1])
    other = plan.chains[1].lane

    run.next(alone)

    found = run.algorithm.lane_state(other, run.outcome.state, run.outcome.memory)
    assert found.trainable.tobytes() == BASE.trainable.tobytes()
    trained_end = by_hand(BASE, alone.chains[0].workers, 2)
    np.testing.assert_allclose(run.outcome.state.trainable, trained_end, rtol=1e-5, atol=1e-6)


def test_groups_that_share_a_model_of_the_bank_are_averaged() -> None:
    """A later attempt of a round may draw a second group for a lane."""
    run = Run(fedseq(BANK.format(5))).next()
    chains = run.plan().chains

    run.next(Plan(tuple(replace(chain, lane="0") for chain in chains)))

    expected = np.mean([by_hand(BASE, chain.workers, 2) for chain in chains], axis=0)
    np.testing.assert_allclose(run.outcome.state.trainable, expected, rtol=1e-5, atol=1e-6)


# Recipes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (", share = 0.0", "share"),
        (", share = 1.5", "share"),
        (", interval = 0", "interval"),
        (", clusters = 1", "clusters"),
        (', approximator = "classifier"', "kullback"),
        (', approximator = "classifier", measure = "gini"', "gini"),
    ],
)
def test_options_out_of_range_are_refused(options: str, says: str) -> None:
    with pytest.raises(RecipeInvalid, match=says):
        fedseq(options)


def test_selection_that_looks_at_workers_is_refused() -> None:
    with pytest.raises(RecipeInvalid, match=r"oort.*groups"):
        fedseq(extra=', selection = "oort"')


def test_cohort_of_a_part_of_the_workers_is_refused() -> None:
    text = fedseq().source.replace("cohort = 6", "cohort = 5")
    with pytest.raises(RecipeInvalid, match="cohort = 6"):
        parse_recipe(text)


def test_public_examples_are_asked_for_only_where_all_workers_have_the_data_set() -> None:
    text = fedseq().source.replace(', workers = 6, partition = "iid"', "")
    text = text.replace("max_weight", "fleet = 6, max_weight")
    with pytest.raises(RecipeInvalid, match="public examples"):
        parse_recipe(text)
