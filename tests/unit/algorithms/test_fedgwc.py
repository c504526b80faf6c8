from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from samples import SCHEMA, header, sections, state

from fedfleet.algorithms.base import Memory, Outcome
from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.algorithms.fedgwc import affinity, best_split, rewards
from fedfleet.algorithms.plan import MAIN, PlanRequest
from fedfleet.errors import RecipeInvalid
from fedfleet.rounds.chance import shuffled
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.types import Array, Kind, ModelState, Update, UpdateHeader

BASE = state(seed=9)
Losses = Callable[[int, int], Sequence[float]]


def recipe(workers: int, cohort: int, algorithm: str = "") -> Recipe:
    return parse_recipe(
        f"""
        name = "m"
        model = {{architecture = "mlp"}}
        data = {{dataset = "digits", workers = {workers}, partition = "iid"}}
        rounds = {{rounds = 1000, cohort = {cohort}, max_weight = 100}}
        algorithm = {{name = "fedgwc"{algorithm}}}
        """
    )


def populations(seed: int, *, apart: float, of: int = 3) -> Losses:
    """Losses of three epochs: those of every ``of``-th worker are higher by ``apart``."""
    random = np.random.default_rng(seed)

    def losses(worker: int, _round: int) -> Sequence[float]:
        level = 1.0 + (apart if worker % of == 0 else 0.0)
        return [float(loss) for loss in level + 0.05 * random.normal(size=3)]

    return losses


class Run:
    """Rounds of cohorts drawn by a hash, whose updates a worker's name and the round draw."""

    def __init__(self, recipe: Recipe, losses: Losses) -> None:
        self.recipe = recipe
        self.losses = losses
        self.algorithm = make_algorithm(recipe.algorithm)
        self.outcome = Outcome(BASE, self.algorithm.start(SCHEMA))
        self.round = 0
        self.names = tuple(f"w{i:02d}" for i in range(recipe.fleet or 0))

    def next(self, order: Callable[[list[Update]], list[Update]] = list) -> Run:
        self.round += 1
        base, memory = self.outcome.state, self.outcome.memory

        def draw(names: Sequence[str], size: int) -> tuple[str, ...]:
            return tuple(sorted(shuffled(names, self.round)[:size]))

        request = PlanRequest(self.round, self.names, self.recipe.rounds.cohort, draw, memory)
        plan = self.algorithm.plan(request)
        lanes = {chain.workers[0]: chain.lane for chain in plan.chains}
        updates = [self.update(worker) for worker in sorted(lanes)]
        total = RoundSum(self.recipe, self.algorithm, base, memory)
        for one in order(updates):
            self.algorithm.check_header(one.header)
            total.fold(one, lane=lanes[one.header.worker_id])
        self.outcome = total.outcome([one.header for one in updates], self.round)
        return self

    def update(self, worker: str) -> Update:
        number = int(worker[1:])
        random = np.random.default_rng((number, self.round))
        losses = self.losses(number, self.round)
        moves = {
            Kind.TRAINABLE: random.normal(size=9).astype(np.float32),
            Kind.STATISTIC: random.uniform(0.1, 2, 6).astype(np.float32),
            Kind.COUNTER: np.array([self.round]),
        }
        return Update(reporting(worker, losses, 10.0 + number), sections(SCHEMA, moves))

    def until_split(self, most: int) -> Run:
        while len(self.clusters()) == 1 and self.round < most:
            self.next()
        return self

    def clusters(self) -> dict[str, set[int]]:
        """Numbers of the workers on each lane."""
        found: dict[str, set[int]] = {}
        for name in self.names:
            lane = self.algorithm.lane_of(name, self.outcome.memory)
            found.setdefault(lane, set()).add(int(name[1:]))
        return found

    def model(self, lane: str) -> ModelState:
        return self.algorithm.lane_state(lane, self.outcome.state, self.outcome.memory)


def reporting(worker: str, losses: Sequence[float], weight: float = 10.0) -> UpdateHeader:
    metrics = {f"algorithm.fedgw_loss_{epoch:02d}": loss for epoch, loss in enumerate(losses)}
    return header(worker_id=worker, weight=weight, metrics=metrics)


# What losses earn


def test_rewards_are_the_papers() -> None:
    losses = np.array([[1.0, 0.8], [1.1, 0.7], [2.0, 1.9]])
    weights = [10.0, 20.0, 30.0]

    found = rewards([reporting(f"w{i}", losses[i], weights[i]) for i in range(3)])

    share = np.array(weights) / 60
    for k in range(3):
        mean = [(share * losses[:, e]).sum() for e in range(2)]
        variance = [(share * (losses[:, e] - mean[e]) ** 2).sum() for e in range(2)]
        wanted = np.mean(
            [np.exp(-((losses[k, e] - mean[e]) ** 2) / (2 * variance[e])) for e in range(2)]
        )
        assert found[k] == pytest.approx(wanted)


def test_equal_losses_earn_equal_rewards() -> None:
    found = rewards([reporting(f"w{i}", [0.1, 1 / 3], 1.0 + i) for i in range(7)])

    np.testing.assert_allclose(found, 1.0)


def test_losses_far_out_earn_little_and_never_nothing() -> None:
    near = [reporting(f"w{i}", [1.0 + 0.01 * i]) for i in range(9)]

    found = rewards([*near, reporting("w9", [1e100])])

    assert found[:9].min() > 0.5 > found[9] > 0


def test_epochs_that_not_all_report_are_left_out() -> None:
    cohort = [reporting("w0", [1.0, 9.0]), reporting("w1", [1.2]), reporting("w2", [1.1])]

    assert (
        rewards(cohort).tolist()
        == rewards(
            [reporting("w0", [1.0]), reporting("w1", [1.2]), reporting("w2", [1.1])]
        ).tolist()
    )


# How alike workers are


def test_affinity_compares_rows_without_the_entries_of_the_two() -> None:
    interaction = np.random.default_rng(0).uniform(size=(5, 5))

    found = affinity(interaction, 0.7)

    scaled = (interaction - interaction.min()) / (interaction.max() - interaction.min())
    for i in range(5):
        for j in range(5):
            rest = [k for k in range(5) if k not in (i, j)]
            distance = ((scaled[i, rest] - scaled[j, rest]) ** 2).sum()
            assert found[i, j] == pytest.approx(1.0 if i == j else np.exp(-0.7 * distance))


@pytest.mark.parametrize("noise", [0.0, 1e-16, 1e-12])
@pytest.mark.parametrize("size", [3, 6, 11, 20])
def test_workers_that_are_all_alike_are_not_split(size: int, noise: float) -> None:
    random = np.random.default_rng(size)
    interaction: Array = np.full((size, size), 1 / size) + noise * random.normal(size=(size, size))

    assert not best_split(affinity(interaction, 0.1), 4).any()


def test_best_split_tears_no_population_apart() -> None:
    for parts in (2, 3, 4):
        labels = np.repeat(np.arange(parts), 6)
        noise = np.random.default_rng(0).normal(0, 0.02, (len(labels), len(labels)))
        interaction = np.where(labels[:, None] == labels, 0.2, 0.01) + noise
        found = best_split(affinity(interaction, 4.0), 4)
        assert len(set(zip(found.tolist(), labels.tolist(), strict=True))) == parts
        assert 2 <= len(np.unique(found)) <= parts
        assert len(np.unique(best_split(affinity(interaction, 4.0), 2))) == 2


# Clusters


@pytest.mark.parametrize("seed", range(3))
def test_two_populations_of_different_losses_end_in_clusters_of_their_own(seed: int) -> None:
    run = Run(recipe(20, 5, ", tolerance = 1e-3"), populations(seed, apart=1.0))

    run.until_split(200)

    assert sorted(map(sorted, run.clusters().values())) == sorted(
        [list(range(0, 20, 3)), [i for i in range(20) if i % 3]]
    )


def test_one_population_stays_together() -> None:
    run = Run(recipe(40, 8, ", tolerance = 1e-3"), populations(0, apart=0.0))

    run.until_split(150)

    assert run.round == 150


def test_cohort_of_all_workers_is_never_split() -> None:
    """Everyone is compared in the same company; parts would be smaller than a cohort."""
    run = Run(recipe(8, 8, ", tolerance = 1.0"), populations(0, apart=1.0))

    run.until_split(20)

    assert run.round == 20


def test_run_without_a_split_is_fedavg_bit_for_bit() -> None:
    one = Run(recipe(6, 3), populations(0, apart=1.0))
    other = Run(recipe(6, 3), populations(0, apart=1.0))
    other.algorithm = make_algorithm(
        parse_recipe(one.recipe.source.replace("fedgwc", "fedavg")).algorithm
    )

    for _ in range(5):
        one.next()
        other.next()

        for kind in Kind:
            assert one.outcome.state.vector(kind).tobytes() == (
                other.outcome.state.vector(kind).tobytes()
            )


def split_run() -> Run:
    run = Run(recipe(20, 5, ", tolerance = 1e-3"), populations(0, apart=1.0)).until_split(200)
    assert len(run.clusters()) == 2
    return run


def test_parts_begin_with_the_model_of_the_whole_and_then_go_their_ways() -> None:
    run = split_run()
    before = {lane: run.model(lane) for lane in ("0", "1")}
    assert before["0"].trainable.tobytes() == before["1"].trainable.tobytes()
    clusters = run.clusters()

    run.next()

    for lane, members in clusters.items():
        cohort = [run.update(name) for name in _drawn(run) if int(name[1:]) in members]
        if cohort:
            weights = [one.header.weight for one in cohort]
            deltas = [one.sections[0].values for one in cohort]
            expected = before[lane].trainable + np.average(deltas, axis=0, weights=weights)
            np.testing.assert_allclose(run.model(lane).trainable, expected, rtol=1e-5, atol=1e-6)
    assert run.model("0").trainable.tobytes() != run.model("1").trainable.tobytes()


def _drawn(run: Run) -> list[str]:
    return sorted(shuffled(run.names, run.round)[:5])


def test_workers_train_the_model_of_their_cluster_and_the_mean_is_published() -> None:
    run = split_run().next()
    clusters = run.clusters()
    request = PlanRequest(99, run.names, 20, lambda names, _: tuple(names), run.outcome.memory)

    plan = run.algorithm.plan(request)

    assert MAIN not in clusters
    for chain in plan.chains:
        assert int(chain.workers[0][1:]) in clusters[chain.lane]
    sizes = [len(clusters[lane]) for lane in ("0", "1")]
    mean = np.average([run.model(k).trainable for k in "01"], axis=0, weights=sizes)
    np.testing.assert_allclose(run.outcome.state.trainable, mean, rtol=1e-6)
    assert run.outcome.state.counters.tolist() == [run.round]


def test_worker_that_takes_part_for_the_first_time_is_of_the_first_cluster() -> None:
    run = split_run()

    assert run.algorithm.lane_of("stranger", run.outcome.memory) == "0"


def test_order_of_updates_changes_no_bit_of_any_cluster() -> None:
    runs = [split_run() for _ in range(2)]

    for _ in range(3):
        runs[0].next()
        runs[1].next(order=lambda updates: updates[::-1])

    assert bytes_of(runs[0].outcome.memory) == bytes_of(runs[1].outcome.memory)
    assert runs[0].outcome.state.trainable.tobytes() == runs[1].outcome.state.trainable.tobytes()


def bytes_of(memory: Memory) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in memory.items()}


def test_every_worker_that_took_part_has_one_place() -> None:
    run = split_run()
    for _ in range(10):
        run.next()

    memory = run.outcome.memory
    places = [
        (int(place[0]), int(place[1]))
        for key, place in memory.items()
        if key.startswith("fedgwc.member.")
    ]
    assert len(set(places)) == len(places) == 20
    for number in {number for number, _ in places}:
        rows = sorted(row for cluster, row in places if cluster == number)
        assert rows == list(range(len(rows)))
        assert memory[f"fedgwc.cluster.{number}.interaction"].shape == (len(rows), len(rows))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (", gamma = 0.0", "gamma"),
        (", tolerance = -1.0", "tolerance"),
        (", max_clusters = 1", "max_clusters"),
        (", server_lr = 0.0", "server_lr"),
    ],
)
def test_options_out_of_range_are_refused(options: str, says: str) -> None:
    with pytest.raises(RecipeInvalid, match=says):
        recipe(6, 3, options)
