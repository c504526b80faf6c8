from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedfleet.data.config import DataConfig, DigitsOptions
from fedfleet.data.partition import partition
from fedfleet.data.summary import describe_partition
from fedfleet.errors import DataEmpty, DataInvalid, RecipeInvalid

SEEDS = st.integers(0, 2**63 - 1)
GOLDEN = [
    "e408c27f8e9d6185",
    "999f583156d6d414",
    "841e800a91ab6a7e",
    "11bf98db0e03976f",
    "7c16eeadcc242457",
    "4b30ca8c7fc99f0a",
    "9f78b25ac283ae03",
]


def config(partition: str, workers: int | None = None, **options: object) -> DataConfig:
    return DataConfig(
        dataset="digits", options=DigitsOptions(), partition=partition, workers=workers, **options
    )


def labels_of(counts: list[int], seed: int) -> np.ndarray:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    return np.random.default_rng(seed % 2**32).permutation(labels)


def assert_is_partition(shards: list[np.ndarray], examples: int) -> None:
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(examples))
    assert all(len(shard) > 0 for shard in shards)
    assert all(shard.dtype == np.int64 and np.all(np.diff(shard) > 0) for shard in shards)


COUNTS = st.lists(st.integers(0, 40), min_size=2, max_size=12).filter(lambda c: sum(c) > 0)


@given(COUNTS, st.integers(1, 20), SEEDS)
def test_iid_covers_once_and_balances_every_class(counts, workers, seed):
    labels = labels_of(counts, seed)
    assume(workers <= len(labels))

    shards = partition(labels, config("iid", workers), len(counts), seed)

    assert_is_partition(shards, len(labels))
    assert np.ptp([len(shard) for shard in shards]) <= 1
    held = np.stack([np.bincount(labels[shard], minlength=len(counts)) for shard in shards])
    assert np.ptp(held, axis=0).max() <= 1


@given(COUNTS, st.integers(1, 20), st.floats(0.001, 1e6), SEEDS)
def test_dirichlet_covers_once_and_leaves_no_shard_empty(counts, workers, alpha, seed):
    labels = labels_of(counts, seed)
    assume(workers <= len(labels))

    shards = partition(labels, config("dirichlet", workers, alpha=alpha), len(counts), seed)

    assert_is_partition(shards, len(labels))


@given(st.lists(st.integers(20, 60), min_size=2, max_size=10), st.data(), SEEDS)
def test_classes_covers_once_and_gives_each_worker_its_number(counts, data, seed):
    each = data.draw(st.integers(1, len(counts)))
    workers = data.draw(st.integers(-(-len(counts) // each), 20))
    labels = labels_of(counts, seed)

    shards = partition(
        labels, config("classes", workers, classes_per_worker=each), len(counts), seed
    )

    assert_is_partition(shards, len(labels))
    held = np.stack([np.bincount(labels[shard], minlength=len(counts)) for shard in shards])
    assert (np.count_nonzero(held, axis=1) == each).all()
    assert np.ptp(np.count_nonzero(held, axis=0)) <= 1
    for counts_of_class in held.T:
        assert np.ptp(counts_of_class[counts_of_class > 0]) <= 1


@given(COUNTS, st.integers(1, 12), st.integers(1, 4), SEEDS)
def test_shards_covers_once_in_slices_of_the_sorted_labels(counts, workers, each, seed):
    labels = labels_of(counts, seed)
    assume(workers * each <= len(labels))

    shards = partition(labels, config("shards", workers, shards_per_worker=each), len(counts), seed)

    assert_is_partition(shards, len(labels))
    # Equal slices, and together as many runs of labels as slices and changes of label can make.
    assert np.ptp([len(shard) for shard in shards]) <= each
    held = [len(np.unique(labels[shard])) for shard in shards]
    assert sum(held) <= workers * each + np.count_nonzero(counts) - 1


def test_shards_of_two_give_the_pathological_split():
    """McMahan 2017: 200 slices of sorted digits, two each; nobody holds more than four labels."""
    labels = labels_of([600] * 10, 3)

    shards = partition(labels, config("shards", 100, shards_per_worker=2), 10, 3)

    assert {len(shard) for shard in shards} == {60}
    held = [len(np.unique(labels[shard])) for shard in shards]
    assert max(held) == 2
    assert min(held) == 1


@given(COUNTS, st.integers(1, 20), st.floats(0.001, 1e6), SEEDS)
def test_quantity_covers_once_and_leaves_no_shard_empty(counts, workers, alpha, seed):
    labels = labels_of(counts, seed)
    assume(workers <= len(labels))

    shards = partition(labels, config("quantity", workers, alpha=alpha), len(counts), seed)

    assert_is_partition(shards, len(labels))


@pytest.mark.parametrize("seed", range(3))
def test_quantity_skews_sizes_and_not_labels(seed):
    labels = labels_of([1000] * 5, seed)

    skewed, even = (
        partition(labels, config("quantity", 10, alpha=alpha), 5, seed) for alpha in (0.5, 1e5)
    )

    assert np.ptp([len(shard) for shard in skewed]) > 500
    assert np.ptp([len(shard) for shard in even]) < 50
    rows = describe_partition(labels, skewed, list("abcde"))
    assert all(row.skew < 0.15 for row in rows if row.examples > 200)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.data(), SEEDS)
def test_natural_gives_each_owner_to_one_worker(counts, data, seed):
    owners = labels_of(counts, seed)
    workers = data.draw(st.integers(1, len(counts)))

    shards = partition(np.zeros_like(owners), config("natural", workers), 1, seed, owners=owners)

    assert_is_partition(shards, len(owners))
    held = [set(owners[shard].tolist()) for shard in shards]
    assert sum(map(len, held)) == len(counts)
    assert np.ptp([len(names) for names in held]) <= 1


@pytest.mark.parametrize(
    "chosen",
    [
        config("iid", 7),
        config("dirichlet", 7, alpha=0.3),
        config("classes", 7, classes_per_worker=3),
        config("shards", 7, shards_per_worker=2),
        config("quantity", 7, alpha=0.5),
        config("natural", 7),
        config("pachinko", 7, alpha=0.1, fine_alpha=10.0),
    ],
    ids=lambda chosen: chosen.partition,
)
def test_partition_depends_on_the_seed_alone(chosen):
    labels = labels_of([50] * 10, 0)
    known = {"groups": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], "owners": labels_of([25] * 20, 1)}

    first, second, other = (partition(labels, chosen, 10, seed, **known) for seed in (5, 5, 6))

    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({shard.tobytes() for shard in first}) == 7


@settings(max_examples=20)
@given(st.integers(0, 2**62))
def test_dirichlet_skew_grows_as_alpha_falls(seed):
    labels = labels_of([200] * 10, seed)

    def skew(alpha: float) -> float:
        """The mean over examples and over ten draws."""
        total = 0.0
        for draw in range(10):
            shards = partition(labels, config("dirichlet", 10, alpha=alpha), 10, seed + draw)
            rows = describe_partition(labels, shards, [str(c) for c in range(10)])
            total += sum(row.skew * row.examples for row in rows)
        return total / 10 / len(labels)

    skews = [skew(alpha) for alpha in (0.01, 0.3, 10.0, 1000.0)]

    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.7
    assert skews[-1] < 0.1


def test_partition_is_the_same_on_every_machine():
    """A fixed digest: a change here gives running fleets overlapping shards."""
    labels = (np.arange(1000, dtype=np.int64) * 7) % 10
    digests = []
    for chosen in (
        config("iid", 4),
        config("dirichlet", 4, alpha=0.5),
        config("classes", 5, classes_per_worker=2),
        config("shards", 5, shards_per_worker=2),
        config("quantity", 5, alpha=0.5),
        config("natural", 5),
        config("pachinko", 5, alpha=0.1, fine_alpha=10.0),
    ):
        owners = np.arange(1000, dtype=np.int64) // 50
        shards = partition(labels, chosen, 10, 42, groups=range(10), owners=owners)
        text = ";".join(",".join(map(str, shard)) for shard in shards)
        digests.append(hashlib.sha256(text.encode()).hexdigest()[:16])

    assert digests == GOLDEN


def test_no_partition_is_one_shard_of_all():
    shards = partition(labels_of([3, 4], 0), config("none"), 2, 0)

    assert [shard.tolist() for shard in shards] == [list(range(7))]


@pytest.mark.parametrize(
    ("chosen", "counts", "text"),
    [
        (config("iid", 8), [3, 4], "data.workers = 8: the training split has 7 examples"),
        (config("dirichlet", 8, alpha=1.0), [3, 4], "data.workers = 8"),
        (config("classes", 4, classes_per_worker=3), [9, 9], "the training split has 2 classes"),
        (config("classes", 2, classes_per_worker=1), [9, 9, 9], "would hold 2 of the 3 classes"),
        (config("classes", 8, classes_per_worker=2), [2, 30], "class 0 has 2 examples for 8"),
        (config("shards", 4, shards_per_worker=2), [3, 4], "4 workers would take 8 slices of 7"),
        (config("natural", 2), [3, 4], 'partition = "natural": data set "digits" has no owners'),
        (
            config("pachinko", 2, alpha=0.1, fine_alpha=1.0),
            [3, 4],
            'partition = "pachinko": data set "digits" has no groups',
        ),
    ],
)
def test_too_few_examples_or_classes_are_refused(chosen, counts, text):
    with pytest.raises(RecipeInvalid, match=text) as caught:
        partition(labels_of(counts, 0), chosen, len(counts), 0)

    assert caught.value.code == "RECIPE_INVALID"


def test_more_workers_than_owners_are_refused():
    owners = np.array([0, 0, 1, 1])

    with pytest.raises(RecipeInvalid, match=r"data.workers = 3: .* belongs to 2 owners only"):
        partition(np.zeros(4, np.int64), config("natural", 3), 2, 0, owners=owners)


@pytest.mark.parametrize(
    ("labels", "error", "code"),
    [
        (np.array([], np.int64), DataEmpty, "DATA_EMPTY"),
        (np.array([0, 10], np.int64), DataInvalid, "DATA_INVALID"),
        (np.array([0, -1], np.int64), DataInvalid, "DATA_INVALID"),
        (np.array([0, 1], np.int32), DataInvalid, "DATA_INVALID"),
        (np.array([[0, 1]], np.int64), DataInvalid, "DATA_INVALID"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, error, code):
    with pytest.raises(error) as caught:
        partition(labels, config("iid", 1), 10, 0)

    assert caught.value.code == code
