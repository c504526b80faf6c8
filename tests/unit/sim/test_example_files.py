"""Shards that one process decoded are there for the others, the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedfleet.data.config import DataConfig, FolderOptions, ShapesOptions
from fedfleet.data.shard import Examples, Shards
from fedfleet.errors import DataMissing
from fedfleet.sim.example_files import ExampleFiles

CONFIG = DataConfig(
    dataset="folder",
    options=FolderOptions(classes=("cat", "dog"), image_size=8),
    partition="iid",
    workers=3,
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draws = np.random.default_rng(1)
    folder = tmp_path / "data"
    for split, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def shared(data: Path, folder: Path) -> ExampleFiles:
    return ExampleFiles(Shards(CONFIG, seed=1, data_dir=data), folder)


def same(left: Examples, right: Examples) -> bool:
    return (
        left.images.tobytes() == right.images.tobytes()
        and left.labels.tobytes() == right.labels.tobytes()
        and left.images.shape == right.images.shape
    )


def test_example_files_give_what_shards_give(images: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    examples = shared(images, tmp_path / "shared")
    shards = Shards(CONFIG, seed=1, data_dir=images)

    for split in ("train", "test"):
        for shard in range(3):
            for _ in range(2):  # decoded, then mapped
                assert same(examples.load(split, shard), shards.load(split, shard))
    assert same(examples.exemplars(1), shards.exemplars(1))


def test_second_process_needs_the_data_set_no_more(images: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    first = shared(images, tmp_path / "shared").load("train", 1)
    second = shared(images, tmp_path / "shared")
    shutil.rmtree(images)

    assert same(second.load("train", 1), first)
    with pytest.raises(DataMissing):
        second.load("train", 2)


def test_mapped_examples_can_be_changed_by_nobody_else(images: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    examples = shared(images, tmp_path / "shared")
    before = examples.load("train", 0).images.copy()

    examples.load("train", 0).images[:] = 0

    assert (examples.load("train", 0).images == before).all()


def test_example_files_keep_boxes(tmp_path: Path) -> None:
    config = DataConfig(dataset="shapes", options=ShapesOptions(samples=8, image_size=32))
    shards = Shards(config, seed=1, data_dir=None)
    examples = ExampleFiles(shards, tmp_path)

    for _ in range(2):  # drawn, then mapped
        boxes = examples.load("train", None).boxes
        assert boxes is not None
        assert np.array_equal(boxes, shards.load("train", None).boxes)
