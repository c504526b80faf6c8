from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.config import DataConfig, DigitsOptions

DIGITS = DataConfig(dataset="digits", options=DigitsOptions())


def everything(split):
    images = open_dataset(DIGITS, split, None)
    return images.load(np.arange(len(images.labels))), images.labels


def test_digits_split_is_a_fifth_of_every_class():
    _, train = everything("train")
    _, test = everything("test")

    assert (len(train), len(test)) == (1438, 359)
    share = np.bincount(test) / np.bincount(np.concatenate([train, test]))
    np.testing.assert_allclose(share, 0.2, atol=0.003)


def test_digits_splits_are_scikit_learns_images_each_once():
    images, labels = (
        np.concatenate(part) for part in zip(everything("train"), everything("test"), strict=True)
    )
    theirs = load_digits()

    ours = sorted(zip(labels.tolist(), map(bytes, images), strict=True))
    want = np.rint(theirs.images * 255 / 16).astype(np.uint8)

    assert images.shape == (1797, 1, 8, 8)
    assert images.max() == 255
    assert ours == sorted(zip(theirs.target.tolist(), map(bytes, want), strict=True))


def test_digits_constants_are_those_of_the_training_split():
    images, _ = everything("train")
    inputs = describe(DIGITS).inputs

    pixels = images / 255

    assert (inputs.mean[0], inputs.std[0]) == pytest.approx((pixels.mean(), pixels.std()), abs=1e-4)


def test_digits_rows_do_not_come_class_by_class():
    _, labels = everything("train")

    assert len(np.unique(labels[:40])) == 10
