from __future__ import annotations

import numpy as np

from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.config import DataConfig, SyntheticOptions


def load(split, **options):
    config = DataConfig(dataset="synthetic", options=SyntheticOptions(**options))
    images = open_dataset(config, split, None)
    return images.load(np.arange(len(images.labels))).astype(float), images.labels


def test_synthetic_has_the_sizes_that_were_asked_for():
    for split, count in (("train", 100), ("test", 25)):
        images, labels = load(split, samples=100, features=7, classes=3)
        assert images.shape == (count, 1, 1, 7)
        assert np.ptp(np.bincount(labels, minlength=3)) <= 1
    config = DataConfig(dataset="synthetic", options=SyntheticOptions(features=7, classes=3))
    assert describe(config).inputs.width == 7
    assert len(describe(config).classes) == 3


def test_synthetic_is_the_same_every_time_and_its_splits_differ():
    (train, labels), (again, _), (test, _) = load("train"), load("train"), load("test")

    assert np.array_equal(train, again)
    assert not any((row == train).all(axis=(1, 2, 3)).any() for row in test)
    assert len(np.unique(labels[:10])) == 2


def test_synthetic_clouds_can_be_told_apart_in_the_test_split():
    images, labels = load("train", samples=1000, features=8, classes=5)
    unseen, truth = load("test", samples=1000, features=8, classes=5)
    centres = np.stack([images[labels == label].mean(axis=0) for label in range(5)])

    distance = ((unseen[:, np.newaxis] - centres) ** 2).sum(axis=(2, 3, 4))

    assert (distance.argmin(axis=1) == truth).mean() > 0.95
