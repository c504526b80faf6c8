from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedfleet.data import catalog
from fedfleet.data.boxes import label_of_largest
from fedfleet.data.catalog import DatasetSpec, open_dataset
from fedfleet.data.config import DataConfig, DigitsOptions, ShapesOptions, SyntheticOptions
from fedfleet.data.shapes import SHAPES
from fedfleet.data.shard import Shards, load_examples
from fedfleet.data.synthetic import SYNTHETIC
from fedfleet.errors import DataEmpty, DataInvalid, DataMissing, RecipeInvalid

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


NOISY = DataConfig(
    dataset="digits", options=DigitsOptions(), partition="iid", workers=4, feature_noise=0.2
)


def test_noise_is_of_the_workers_level_and_of_training_images_only():
    clean = replace(NOISY, feature_noise=None)
    levels = []
    for shard in range(4):
        noisy, plain = (load(config, "train", shard) for config in (NOISY, clean))
        assert np.array_equal(noisy.labels, plain.labels)
        inner = (plain.images > 100) & (plain.images < 156)  # nothing is cut off there
        noise = (noisy.images.astype(float) - plain.images)[inner] / 255
        levels.append(noise.std())
        assert rows(load(NOISY, "test", shard)) == rows(load(clean, "test", shard))

    np.testing.assert_allclose(levels, [0.05, 0.1, 0.15, 0.2], rtol=0.1)
    assert rows(load(NOISY, "test", None)) == rows(load(clean, "test", None))


def test_workers_without_noise_hold_their_images_as_they_are():
    clean, last = replace(NOISY, feature_noise=None), replace(NOISY, noisy_workers=1)

    same = [rows(load(last, "train", i)) == rows(load(clean, "train", i)) for i in range(4)]

    assert same == [True, True, True, False]


def test_noise_is_the_same_at_every_load_and_not_on_two_shards():
    assert rows(load(NOISY, "train", 1)) == rows(load(NOISY, "train", 1))
    assert rows(load(NOISY, "train", 1)) != rows(load(NOISY, "train", 1, seed=4))


def test_shards_opens_and_splits_once():
    shards = Shards(SPLIT, seed=3, data_dir=None)

    for split in ("train", "test"):
        for shard in range(4):
            assert rows(shards.load(split, shard)) == rows(load(SPLIT, split, shard))
    assert shards.train is shards.train
    assert shards.indexes is shards.indexes
    assert shards.owners == [()] * 4


def test_exemplars_are_the_first_of_each_class_on_every_device():
    one = Shards(SPLIT, seed=3, data_dir=None).exemplars(4)
    other = Shards(SPLIT, seed=8, data_dir=None).exemplars(4)
    test = load(WHOLE, "test", None)

    assert one.labels.tolist() == [label for label in range(10) for _ in range(4)]
    assert np.array_equal(one.images, other.images)
    for label in range(10):
        first = test.images[test.labels == label][:4]
        assert np.array_equal(one.images[one.labels == label], first)


def test_exemplars_are_all_there_are_where_more_are_asked_for():
    whole = load(WHOLE, "test", None)

    assert rows(Shards(SPLIT, seed=3, data_dir=None).exemplars(10_000)) == rows(whole)


BOXED = DataConfig(
    dataset="shapes",
    options=ShapesOptions(samples=60, image_size=32),
    partition="dirichlet",
    workers=3,
    alpha=0.5,
)


@pytest.mark.parametrize("split", ["train", "test"])
def test_shards_of_images_with_boxes_together_are_the_split(split):
    whole = load(BOXED, "test", None) if split == "test" else load(UNSPLIT, "train", None)
    pairs = {bytes(image): bytes(boxes) for image, boxes in pairs_of(whole)}
    held = [pair for shard in range(3) for pair in pairs_of(load(BOXED, split, shard))]

    assert {bytes(image): bytes(boxes) for image, boxes in held} == pairs
    assert len(held) == len(whole)


UNSPLIT = replace(BOXED, partition="none", workers=None, alpha=None)


def pairs_of(examples):
    assert examples.boxes is not None
    return list(zip(examples.images, examples.boxes, strict=True))


def test_taken_examples_keep_their_boxes():
    examples = load(UNSPLIT, "test", None)
    index = np.array([9, 2, 2, 14])

    taken = examples.take(index)

    assert np.array_equal(taken.boxes, examples.boxes[index])
    assert np.array_equal(taken.images, examples.images[index])
    assert np.array_equal(taken.labels, label_of_largest(taken.boxes))
    assert load(WHOLE, "test", None).take(index).boxes is None


def test_noise_leaves_boxes_as_they_are():
    noisy = load(replace(BOXED, feature_noise=0.1), "train", 2)
    clean = load(BOXED, "train", 2)

    assert np.array_equal(noisy.boxes, clean.boxes)
    assert not np.array_equal(noisy.images, clean.images)


def test_boxes_of_all_training_images_need_no_image():
    shards = Shards(BOXED, seed=3, data_dir=None)

    assert shards.boxes.shape == (60, 4, 5)
    assert Shards(SPLIT, seed=3, data_dir=None).boxes is None


def test_exemplars_of_images_with_boxes_have_theirs():
    exemplars = Shards(BOXED, seed=3, data_dir=None).exemplars(1)

    assert np.array_equal(exemplars.labels, label_of_largest(exemplars.boxes))
    assert sorted(set(exemplars.labels.tolist())) == exemplars.labels.tolist()


class Boxless:
    """Says that it has boxes, and has none."""

    def describe(self, options: SyntheticOptions) -> DatasetSpec:
        return replace(SYNTHETIC.describe(options), kind="detection")

    def open(self, options, split, data_dir):
        return SYNTHETIC.open(options, split, data_dir)


class Outside:
    """A box reaches out of its image."""

    def describe(self, options: ShapesOptions) -> DatasetSpec:
        return SHAPES.describe(options)

    def open(self, options, split, data_dir):
        images = SHAPES.open(options, split, data_dir)
        boxes = images.load_boxes(np.arange(15))
        boxes[4, 0] = (0, 0.5, 0.5, 1.5, 1.0)
        images.load_boxes = lambda index: boxes[index]
        return images


@pytest.mark.parametrize(
    ("source", "options", "text"),
    [
        (Boxless(), SyntheticOptions(), r"has no load_boxes\(\)"),
        (Outside(), ShapesOptions(samples=60), "must have left < right"),
    ],
)
def test_data_set_that_is_not_what_it_says_is_invalid(monkeypatch, source, options, text):
    monkeypatch.setattr(catalog.plugins, "load", lambda group, name: source)
    config = DataConfig(dataset="from_elsewhere", options=options)

    with pytest.raises(DataInvalid, match=text):
        load(config, "test", None)
