from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.config import CifarOptions, DataConfig
from fedfleet.data.shard import load_examples
from fedfleet.errors import DataMissing


def cifar(name: str, **partition: object) -> DataConfig:
    return DataConfig(dataset=name, options=CifarOptions(), **partition)


@pytest.mark.parametrize(("name", "column"), [("cifar10", "label"), ("cifar100", "fine_label")])
def test_cifar_class_names_are_those_in_the_files(real_data, name, column):
    file = next((real_data / name).glob("test-*.parquet"))
    metadata = json.loads(pq.read_schema(file).metadata[b"huggingface"])

    assert list(describe(cifar(name)).classes) == metadata["info"]["features"][column]["names"]


def test_cifar100_groups_are_its_own_coarse_labels(real_data):
    groups = describe(cifar("cifar100")).groups
    file = next((real_data / "cifar100").glob("**/test-*.parquet"))
    table = pq.read_table(file, columns=["fine_label", "coarse_label"])

    pairs = set(zip(*(column.to_pylist() for column in table.columns), strict=True))

    assert pairs == set(enumerate(groups))
    assert np.bincount(groups).tolist() == [5] * 20
    assert describe(cifar("cifar10")).groups is None


@pytest.mark.parametrize(("name", "each"), [("cifar10", 5000), ("cifar100", 500)])
def test_cifar_holds_the_published_number_of_each_class(real_data, name, each):
    for split, count in (("train", each), ("test", each // 5)):
        labels = open_dataset(cifar(name), split, real_data).labels
        assert (np.bincount(labels) == count).all()


def test_cifar_takes_the_first_samples_of_training_only(real_data):
    few = DataConfig(dataset="cifar10", options=CifarOptions(samples=70))
    chosen, whole = (open_dataset(c, "train", real_data) for c in (few, cifar("cifar10")))

    assert chosen.labels.tolist() == whole.labels[:70].tolist()
    index = np.array([3, 69])
    assert np.array_equal(chosen.load(index), whole.load(index))
    assert len(open_dataset(few, "test", real_data).labels) == 10_000


def test_cifar_refuses_a_number_of_samples_below_one():
    with pytest.raises(ValueError, match="samples = 0: must be 1 or more"):
        CifarOptions(samples=0)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_pixels_have_the_published_mean_and_deviation(real_data, name):
    chosen = cifar(name, partition="iid", workers=20)

    examples = load_examples(chosen, "train", seed=1, shard=3, data_dir=real_data)

    inputs = describe(chosen).inputs
    pixels = examples.images / 255
    assert examples.images.shape == (2500, 3, 32, 32)
    np.testing.assert_allclose(pixels.mean(axis=(0, 2, 3)), inputs.mean, atol=0.02)
    np.testing.assert_allclose(pixels.std(axis=(0, 2, 3)), inputs.std, atol=0.01)


def test_cifar_shards_of_the_test_split_are_each_twentieth_row(real_data):
    chosen = cifar("cifar10", partition="iid", workers=20)
    everything = open_dataset(chosen, "test", real_data)

    examples = load_examples(chosen, "test", seed=1, shard=3, data_dir=real_data)

    assert np.array_equal(examples.labels, everything.labels[3::20])
    assert np.array_equal(examples.images[:2], everything.load(np.array([3, 23])))


def test_cifar_without_a_folder_says_what_to_do(tmp_path):
    for data_dir, text in ((None, "FEDFLEET_DATA_DIR"), (tmp_path, r"data.download = true")):
        with pytest.raises(DataMissing, match=text) as caught:
            open_dataset(cifar("cifar100"), "train", data_dir)
        assert caught.value.code == "DATA_MISSING"
