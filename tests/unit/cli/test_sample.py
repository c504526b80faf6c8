from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fedfleet.cli.predict import print_answer
from fedfleet.cli.sample import held_out_image
from fedfleet.data.catalog import open_dataset
from fedfleet.errors import FedFleetError
from fedfleet.rounds.recipe import Recipe, parse_recipe

MODEL = {"name": "m", "version": 4, "round": 3}


def recipe_of(tiny: Path, seed: int, *, dataset: str = "shapes") -> Recipe:
    text = tiny.read_text().replace("seed = 3", f"seed = {seed}")
    if dataset == "shapes":
        text = text.replace('"synthetic"', '"shapes"\nsamples = 200\nimage_size = 32')
        text = text.replace("seed =", 'kind = "detection"\nseed =')
        text = text.replace('"mlp"\nhidden = [8]', '"ssd_tiny"')
    return parse_recipe(text)


@pytest.mark.parametrize("seed", range(0, 60, 7))
def test_sample_of_images_with_boxes_shows_something(tiny: Path, seed: int) -> None:
    recipe = recipe_of(tiny, seed)

    sample = held_out_image(recipe, None)

    assert sample is not None
    assert 1 <= len(sample.labels) <= 4
    pixels = np.asarray(Image.open(BytesIO(sample.png))).transpose(2, 0, 1)
    images = open_dataset(recipe.data, "test", None)
    assert (images.load(np.arange(50)) == pixels).all(axis=(1, 2, 3)).sum() == 1


def test_verdict_on_a_class_is_right_or_wrong(tiny: Path) -> None:
    sample = held_out_image(recipe_of(tiny, 1, dataset="synthetic"), None)
    assert sample is not None
    [label] = sample.labels

    for said, word in ((label, "right"), ("another", "wrong")):
        answer = {"predictions": [{"label": said}, {"label": label}]}
        assert sample.verdict(answer) == f"true label: {label} ({word})"


def test_verdict_on_boxes_counts_each_that_is_named_once(tiny: Path) -> None:
    sample = held_out_image(recipe_of(tiny, 7), None)
    assert sample is not None
    count = len(sample.labels)

    said = [{"label": label} for label in (*sample.labels, sample.labels[0], "cow")]

    assert sample.verdict({"detections": said}).endswith(f"({count} of {count} named)")
    assert sample.verdict({"detections": []}).endswith(f"(0 of {count} named)")


def test_boxes_of_an_answer_are_printed_with_their_places() -> None:
    out = Console(record=True, width=100)
    box = {"left": 0.125, "top": 0.25, "right": 0.5, "bottom": 1.0}
    seen = {"label": "star", "index": 3, "score": 0.875, "box": box}

    print_answer(out, {"model": MODEL, "detections": [seen]})

    text = out.export_text()
    assert "Seen by m, version 4, round 3" in text
    for cell in ("star", "87.5 %", "12.5 %", "25.0 %", "50.0 %", "100.0 %"):
        assert cell in text


@pytest.mark.parametrize(
    "answer",
    [{}, {"model": MODEL}, {"model": MODEL, "detections": [{"label": "star", "score": 1.0}]}],
)
def test_answer_of_another_service_is_no_crash(answer: dict[str, object]) -> None:
    with pytest.raises(FedFleetError, match="answered with something else"):
        print_answer(Console(), answer)
