from __future__ import annotations

import pytest

from fedfleet.data.config import (
    CocoOptions,
    DataConfig,
    DigitsOptions,
    FolderOptions,
    ShakespeareOptions,
    ShapesOptions,
    SyntheticOptions,
    VocOptions,
)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"workers": 4}, 'workers: has no meaning with partition = "none"'),
        ({"partition": "iid"}, "workers: .* needs the number of shards"),
        ({"partition": "iid", "workers": 0}, "workers = 0: must be 1 or more"),
        ({"partition": "iid", "workers": 4, "alpha": 0.5}, "alpha = 0.5: has no meaning"),
        ({"partition": "dirichlet", "workers": 4}, "alpha: .* needs it"),
        ({"partition": "dirichlet", "workers": 4, "alpha": 0.0}, "alpha = 0.0: must be from"),
        ({"partition": "dirichlet", "workers": 4, "alpha": float("nan")}, "alpha = nan"),
        ({"partition": "dirichlet", "workers": 4, "alpha": float("inf")}, "alpha = inf"),
        ({"partition": "classes", "workers": 4}, "classes_per_worker: .* needs it"),
        ({"partition": "classes", "workers": 4, "classes_per_worker": 0}, "must be 1 or more"),
        ({"partition": "shards", "workers": 4}, "shards_per_worker: .* needs it"),
        ({"partition": "shards", "workers": 4, "shards_per_worker": 0}, "must be 1 or more"),
        ({"partition": "iid", "workers": 4, "shards_per_worker": 2}, "has no meaning"),
        ({"partition": "quantity", "workers": 4}, "alpha: .* needs it"),
        ({"partition": "natural", "workers": 4, "alpha": 1.0}, "alpha = 1.0: has no meaning"),
        ({"partition": "pachinko", "workers": 4, "alpha": 0.1}, "fine_alpha: .* needs it"),
        (
            {"partition": "pachinko", "workers": 4, "alpha": 0.1, "fine_alpha": -1.0},
            "fine_alpha = -1.0: must be from",
        ),
        (
            {"partition": "dirichlet", "workers": 4, "alpha": 0.1, "fine_alpha": 1.0},
            "fine_alpha = 1.0: has no meaning",
        ),
        ({"feature_noise": 0.1}, "feature_noise = 0.1: has no meaning"),
        ({"partition": "iid", "workers": 4, "feature_noise": 0.0}, "must be above 0"),
        ({"partition": "iid", "workers": 4, "feature_noise": 1.5}, "must be above 0, at most 1"),
        ({"partition": "iid", "workers": 4, "noisy_workers": 2}, "noisy_workers = 2: has no mean"),
        (
            {"partition": "iid", "workers": 4, "feature_noise": 0.1, "noisy_workers": 5},
            "noisy_workers = 5: must be from 1 to workers",
        ),
    ],
)
def test_data_config_refuses_what_is_wrong_or_would_be_ignored(values, text):
    with pytest.raises(ValueError, match=text):
        DataConfig(dataset="digits", options=DigitsOptions(), **values)


@pytest.mark.parametrize(
    "values",
    [
        {"classes": ("a",)},
        {"classes": ("a", "a")},
        {"classes": ("a", "b"), "image_size": 3},
        {"classes": ("a", "b"), "channels": 2},
        {"classes": ("a", "../b")},
        {"classes": ("a", "")},
        {"classes": ("a", ".b")},
    ],
)
def test_folder_options_out_of_range_are_refused(values):
    with pytest.raises(ValueError):
        FolderOptions(**values)


@pytest.mark.parametrize(
    "values",
    [{"sequence": 0}, {"min_samples": 0}, {"max_samples": 0}, {"test_fraction": 1.0}],
)
def test_shakespeare_options_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        ShakespeareOptions(**values)


@pytest.mark.parametrize("values", [{"samples": 3}, {"features": 0}, {"classes": 1}])
def test_synthetic_options_out_of_range_are_refused(values):
    with pytest.raises(ValueError):
        SyntheticOptions(**values)


@pytest.mark.parametrize("values", [{"samples": 3}, {"image_size": 31}, {"most": 0}, {"most": 17}])
def test_shapes_options_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        ShapesOptions(**values)


@pytest.mark.parametrize("options", [CocoOptions, VocOptions])
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"classes": ()}, "classes = .*one or more"),
        ({"classes": ("a", "a")}, "classes = .*different"),
        ({"classes": ("a", "")}, "classes: '' cannot be"),
        ({"classes": ("a\nb",)}, "cannot be the name of a class"),
        ({"classes": ("a" * 101,)}, "1 to 100 printable characters"),
        ({"classes": ("a",), "image_size": 31}, "image_size = 31"),
        ({"classes": ("a",), "image_size": 1025}, "image_size = 1025"),
        ({"classes": ("a",), "train": "val", "test": "val"}, 'test = "val": must be another set'),
    ],
)
def test_options_of_images_with_boxes_that_are_wrong_are_refused(options, values, text):
    with pytest.raises(ValueError, match=text):
        options(**values)
