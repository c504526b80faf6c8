"""How balanced FedSeq's groups are: step 12 of the acceptance ladder (algorithms.md 7).

A group's measure is KL(labels || uniform) in nats, of the true label distributions, from which the
workers are described too, so that grouping alone is judged.
"""

from __future__ import annotations

from statistics import mean

import numpy as np
import pytest

from fedfleet.algorithms.grouping import Described, Method, Sizes, balance, group

WORKERS, CLASSES, EXAMPLES = 50, 10, 100.0


def mean_balance(labels_NC: np.ndarray, method: Method, draw: int) -> float:
    names = tuple(f"draw-{draw}-worker-{i}" for i in range(WORKERS))
    described = Described(names, labels_NC, np.full(WORKERS, EXAMPLES))
    sizes = Sizes(examples=10 * EXAMPLES, workers=11)
    groups = group(described, sizes, method, "kullback", CLASSES)
    rows = {name: row for row, name in enumerate(names)}
    assert sorted(name for one in groups for name in one) == sorted(names)
    return mean(balance(labels_NC[[rows[n] for n in one]].mean(0)) for one in groups)


def test_workers_of_one_class_each_make_groups_of_all_classes() -> None:
    one_class = np.repeat(np.eye(CLASSES), WORKERS // CLASSES, axis=0)

    assert mean_balance(one_class, "greedy", 0) == pytest.approx(0.0, abs=1e-12)
    assert mean_balance(one_class, "kmeans", 0) == pytest.approx(0.0, abs=1e-12)
    assert mean_balance(one_class, "random", 0) > 0.1


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_greedy_groups_are_nearer_to_uniform_than_those_of_clusters_and_of_chance(
    alpha: float,
) -> None:
    random = np.random.default_rng(1)
    draws = [random.dirichlet(np.full(CLASSES, alpha), WORKERS) for _ in range(10)]

    greedy, kmeans, by_chance = (
        mean(mean_balance(labels, method, draw) for draw, labels in enumerate(draws))
        for method in ("greedy", "kmeans", "random")
    )

    assert greedy < kmeans < by_chance
