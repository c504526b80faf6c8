from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedfleet.cli.data_plot import plot_partition
from fedfleet.data.summary import describe_partition

NAMES = ("$a_1$", "<b>", "c d")


def draw(path: Path, groups: list[int] | None = None) -> None:
    labels = np.array([0] * 90 + [1] * 10 + [2], np.int64)
    shards = [np.arange(90), np.arange(90, 101)]
    plot_partition(path, "cost: $5", describe_partition(labels, shards, NAMES), NAMES, groups)


def test_plot_names_classes_as_they_are(tmp_path: Path) -> None:
    draw(tmp_path / "map.svg")

    comments = re.findall(r"<!-- (.*?) -->", (tmp_path / "map.svg").read_text())
    assert {"$a_1$", "&lt;b&gt;", "c d", "cost: $5", "examples", "worker"} <= set(comments)


def test_plot_puts_classes_of_a_group_side_by_side(tmp_path: Path) -> None:
    draw(tmp_path / "map.svg", [1, 0, 1])

    text = (tmp_path / "map.svg").read_text()
    places = [text.index(f"<!-- {name} -->") for name in ("&lt;b&gt;", "$a_1$", "c d")]
    assert places == sorted(places)


def test_plot_is_darkest_where_most_examples_are(tmp_path: Path) -> None:
    draw(tmp_path / "map.png")

    pixels = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int)
    dark = (pixels == [8, 48, 107]).all(axis=2)  # the end of the colours
    # Worker 0 and class 0: to the left, at the top of the lower part.
    rows, columns = np.nonzero(dark[:, : pixels.shape[1] // 2])
    assert len(rows) > 1000
    assert np.ptp(rows) > 20
    assert columns.max() < pixels.shape[1] // 2


@pytest.mark.parametrize("count", [1, 500])
def test_plot_takes_one_worker_and_many(tmp_path: Path, count: int) -> None:
    labels = np.arange(1000, dtype=np.int64) % 60
    names = [f"class{number}" for number in range(60)]
    rows = describe_partition(labels, np.array_split(np.arange(1000), count), names)

    plot_partition(tmp_path / "map.png", "many", rows, names, None)

    with Image.open(tmp_path / "map.png") as image:
        assert max(image.size) <= 2500
