from __future__ import annotations

import pytest

from fedfleet.errors import RecipeInvalid
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe

DETECTION = """
name = "shapes"
kind = "detection"
[model]
architecture = "ssd_tiny"
[data]
dataset = "shapes"
samples = 8
partition = "iid"
workers = 2
[training]
augment = "flip"
[algorithm]
name = "fedavg"
[rounds]
rounds = 1
cohort = 2
"""


def changed(old: str, new: str) -> str:
    assert old in DETECTION
    return DETECTION.replace(old, new)


def test_detection_recipe_has_a_detectors_card() -> None:
    recipe = parse_recipe(DETECTION)

    card = card_of(recipe)

    assert recipe.kind == card.kind == "detection"
    assert card.classes[0] == "circle"


def test_recipe_without_a_kind_classifies() -> None:
    text = changed('kind = "detection"', "").replace("ssd_tiny", "cnn").replace("samples = 8", "")
    recipe = parse_recipe(text.replace("shapes", "digits"))

    assert recipe.kind == card_of(recipe).kind == "classification"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (changed('"detection"', '"segmentation"'), 'kind = "segmentation": must be one of'),
        (changed('"detection"', "3"), "kind = 3: must be one of"),
        (
            changed("ssd_tiny", "cnn"),
            'model.architecture = "cnn": does not answer with boxes, as kind = "detection" wants; '
            "take one of ssd_tiny, ssdlite320_mobilenet_v3_large",
        ),
        (
            changed('kind = "detection"', ""),
            'model.architecture = "ssd_tiny": does not answer with classes',
        ),
        (changed('augment = "flip"', "label_smoothing = 0.1"), "training.label_smoothing: is of"),
        (changed('augment = "flip"', "mask_absent = true"), "training.mask_absent: is of"),
        (
            changed('"fedavg"', '"fedseq"'),
            'algorithm.name = "fedseq": compares',
        ),
    ],
)
def test_what_a_detector_cannot_do_is_refused_by_its_field(text: str, said: str) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        parse_recipe(text)

    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_data_set_of_another_kind_is_refused() -> None:
    recipe = parse_recipe(changed('"shapes"\nsamples = 8', '"digits"'))

    with pytest.raises(RecipeInvalid) as caught:
        card_of(recipe)

    assert caught.value.message == (
        'data.dataset = "digits": holds examples for kind = "classification", the recipe says '
        'kind = "detection"'
    )
