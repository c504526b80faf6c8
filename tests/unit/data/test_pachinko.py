from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedfleet.data.draws import Draws
from fedfleet.data.pachinko import pachinko
from fedfleet.errors import DataInvalid


def by_class(counts: list[int]) -> list[np.ndarray]:
    ends = np.cumsum(counts)
    return [np.arange(end - count, end) for count, end in zip(counts, ends, strict=True)]


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 25), st.integers(0, 4)), min_size=2, max_size=12),
    st.integers(1, 9),
    st.floats(0.001, 1000.0),
    st.floats(0.001, 1000.0),
    st.integers(0, 2**62),
)
def test_pachinko_covers_once_in_equal_shards(classes, workers, alpha, fine_alpha, seed):
    counts, groups = zip(*classes, strict=True)
    assume(sum(counts) >= workers)

    shards = pachinko(by_class(counts), groups, workers, alpha, fine_alpha, Draws(seed, "test"))

    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(sum(counts)))
    assert np.ptp([len(shard) for shard in shards]) <= 1


def test_pachinko_leaves_the_given_examples_alone():
    members = by_class([10, 10])
    before = [part.copy() for part in members]

    pachinko(members, [0, 1], 4, 1.0, 1.0, Draws(0, "test"))

    assert all(map(np.array_equal, members, before))


def shares(alpha: float, fine_alpha: float) -> tuple[float, float]:
    """How much of a shard is of its commonest group, and of that group of its commonest class.

    Means over the first quarter of many workers, before anything runs out.
    """
    groups = np.repeat(np.arange(20), 5)
    found = pachinko(by_class([500] * 100), groups, 500, alpha, fine_alpha, Draws(1, "test"))
    of_group, of_class = [], []
    for shard in found[:125]:
        counts = np.bincount(shard // 500, minlength=100).reshape(20, 5)
        group = counts.sum(axis=1).argmax()
        of_group.append(counts[group].sum() / len(shard))
        of_class.append(counts[group].max() / counts[group].sum())
    return float(np.mean(of_group)), float(np.mean(of_class))


def test_pachinko_skews_groups_by_alpha_and_classes_by_fine_alpha():
    # CIFAR-100 as Reddi 2021 splits it: most of a worker's examples are of few groups, in which
    # the classes are mixed.
    of_group, of_class = shares(0.1, 10.0)
    assert 0.4 < of_group < 0.7
    assert 0.2 < of_class < 0.4

    even_groups, single_classes = shares(100.0, 0.01)
    assert even_groups < 0.15
    assert single_classes > 0.8


def test_pachinko_draws_from_the_mix_it_drew():
    """With one group the classes' chances are those of one Dirichlet draw, here known."""
    draws, again = Draws(3, "test"), Draws(3, "test")
    again.dirichlet(1.0, 1)
    want = again.dirichlet(5.0, 4)

    first = pachinko(by_class([20_000] * 4), [0] * 4, 16, 1.0, 5.0, draws)[0]

    got = np.bincount(first // 20_000, minlength=4) / len(first)
    assert np.abs(got - want).max() < 0.03


def test_pachinko_needs_a_group_for_each_class():
    with pytest.raises(DataInvalid, match="2 classes have a group, there are 3 classes"):
        pachinko(by_class([5, 5, 5]), [0, 1], 2, 1.0, 1.0, Draws(0, "test"))
