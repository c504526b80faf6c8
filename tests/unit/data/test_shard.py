from __future__ import annotations

import numpy as np
import pytest

from fedfleet.data.catalog import open_dataset
from fedfleet.data.config import DataConfig, DigitsOptions, SyntheticOptions
from fedfleet.data.shard import load_examples
from fedfleet.errors import DataEmpty, DataMissing, RecipeInvalid

WHOLE = DataConfig(dataset="digits", options=DigitsOptions())
SPLIT = DataConfig(
    dataset="digits", options=DigitsOptions(), partition="dirichlet", workers=4, alpha=0.5
)


def load(config, split, shard, seed=3):
    return load_examples(config, split, seed=seed, shard=shard, data_dir=None)


def rows(examples):
    return sorted(zip(examples.labels.tolist(), map(bytes, examples.images), strict=True))


@pytest.mark.parametrize("split", ["train", "test"])
def test_shards_together_are_the_split(split):
    held = [row for shard in range(4) for row in rows(load(SPLIT, split, shard))]

    assert sorted(held) == rows(load(WHOLE, split, None))


def test_test_shards_are_rows_by_position():
    labels = open_dataset(SPLIT, "test", None).labels

    for shard in range(4):
        assert np.array_equal(load(SPLIT, "test", shard).labels, labels[shard::4])


def test_train_shards_follow_the_seed():
    assert rows(load(SPLIT, "train", 0, seed=3)) == rows(load(SPLIT, "train", 0, seed=3))
    assert rows(load(SPLIT, "train", 0, seed=3)) != rows(load(SPLIT, "train", 0, seed=4))


def test_no_shard_of_the_test_split_is_the_coordinators_whole():
    assert len(load(SPLIT, "test", None)) == 359


def test_without_a_partition_a_shard_number_has_no_meaning():
    assert rows(load(WHOLE, "train", 17)) == rows(load(WHOLE, "train", None))


def test_examples_take_keeps_the_order():
    examples = load(WHOLE, "test", None)

    taken = examples.take(np.array([5, 2]))

    assert len(taken) == 2
    assert np.array_equal(taken.images, examples.images[[5, 2]])
    assert np.array_equal(taken.labels, examples.labels[[5, 2]])


@pytest.mark.parametrize(
    ("shard", "text"), [(None, "set FEDFLEET_SHARD"), (4, "FEDFLEET_SHARD = 4"), (-1, "= -1")]
)
def test_shard_that_is_not_there_is_missing(shard, text):
    with pytest.raises(DataMissing, match=text) as caught:
        load(SPLIT, "train", shard)

    assert caught.value.code == "DATA_MISSING"


def test_shard_without_examples_is_empty():
    config = DataConfig(
        dataset="synthetic", options=SyntheticOptions(samples=20), partition="iid", workers=8
    )

    assert len(load(config, "train", 7)) == 2
    with pytest.raises(DataEmpty, match="shard 7 of the test split") as caught:
        load(config, "test", 7)
    assert caught.value.code == "DATA_EMPTY"


def test_more_shards_than_examples_are_refused():
    config = DataConfig(
        dataset="synthetic", options=SyntheticOptions(samples=20), partition="iid", workers=21
    )

    with pytest.raises(RecipeInvalid, match=r"data.workers = 21"):
        load(config, "train", 0)
