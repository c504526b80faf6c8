from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import RecipeInvalid, UnknownModel
from fedfleet.models import card as card_module
from fedfleet.models.card import ModelCard
from fedfleet.models.config import BUILT_IN, CnnOptions, MlpOptions, MobileNetOptions
from fedfleet.types import InputSpec

ROOT = Path(card_module.__file__).parents[2]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_card_survives_json_with_default_options(make_card, name):
    card = make_card(name, BUILT_IN[name](), (3, 32, 32))

    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


@given(st.lists(st.integers(1, 5000), max_size=4), st.integers(2, 200))
def test_card_survives_json_with_any_options(hidden, classes):
    value = valid()
    value |= {"options": {"hidden": hidden}, "classes": [str(c) for c in range(classes)]}

    card = ModelCard.from_json(value)

    assert card.model.options == MlpOptions(hidden=tuple(hidden))
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_card_says_its_kind_only_where_it_is_new():
    detector = ModelCard.from_json(valid() | {"kind": "detection", "classes": ["one"]})

    assert detector.to_json()["kind"] == "detection"
    assert ModelCard.from_json(detector.to_json()) == detector
    assert "kind" not in ModelCard.from_json(valid()).to_json()


@given(st.sampled_from(["architecture", "options", "inputs", "classes", "kind"]), JUNK)
def test_card_with_junk_in_a_field_is_refused_with_a_stable_code(field, junk):
    with suppress(RecipeInvalid, UnknownModel):
        card = ModelCard.from_json(valid() | {field: junk})
        assert ModelCard.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"options": {"hiden": []}}, "card.options.hiden: unknown field; did you mean 'hidden'"),
        ({"options": {"hidden": ["8"]}}, 'card.options.hidden = "8": must be a whole number'),
        ({"options": {"hidden": [0]}}, "every layer needs 1 unit"),
        ({"options": {"hidden": [10**12, 10**12]}}, "has at most 1048576"),
        ({"options": {"hidden": [1] * 257}}, "257 layers, at most 256"),
        ({"architecture": "vit", "options": {"depth": 10**4}}, "depth = 10000: must be from 1 to"),
        ({"architecture": "vit", "options": {"dim": 10**9}}, "dim = 1000000000: must be from 1"),
        ({"architecture": "char_lstm", "options": {"layers": 10**6}}, "layers = 1000000: must be"),
        ({"classes": ["one"]}, "two or more different names"),
        ({"classes": ["one", "one"]}, "two or more different names"),
        ({"classes": "ab"}, "must be a list of texts"),
        ({"kind": "segmentation"}, "card.kind = 'segmentation': must be one of classification, de"),
        ({"kind": "detection", "classes": []}, "card.classes: needs one or more"),
        ({"inputs": {}}, "card.inputs: must be a table of channels"),
    ],
)
def test_card_errors_name_the_field(change, text):
    with pytest.raises(RecipeInvalid, match=text.replace("[", r"\[")):
        ModelCard.from_json(valid() | change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 0),
        ("channels", True),
        ("height", 10**9),
        ("width", 8.0),
        ("mean", [0.5, 0.5]),
        ("mean", [float("nan")]),
        ("std", [0.0]),
        ("std", [float("inf")]),
        ("std", ["1"]),
        ("std", [10**400]),
    ],
)
def test_card_inputs_out_of_range_are_refused(field, value):
    inputs = valid()["inputs"] | {field: value}

    with pytest.raises(RecipeInvalid, match=f"card.inputs.{field}"):
        ModelCard.from_json(valid() | {"inputs": inputs})


@pytest.mark.parametrize(
    ("shape", "is_read"),
    [
        ((3, 2048, 2048), True),
        ((1, 4096, 4096), True),
        ((64, 512, 512), True),
        ((64, 513, 512), False),
        ((2, 4096, 4096), False),
        ((64, 4096, 4096), False),
    ],
)
def test_card_of_images_that_no_memory_holds_is_refused(shape, is_read):
    channels, height, width = shape
    sides = {"channels": channels, "height": height, "width": width}
    value = valid() | {"inputs": {**sides, "mean": [0.5] * channels, "std": [0.5] * channels}}

    if is_read:
        assert ModelCard.from_json(value).inputs.shape == shape
    else:
        with pytest.raises(RecipeInvalid, match="values, at most 16777216"):
            ModelCard.from_json(value)


TEXT = {
    "channels": 0,
    "height": 1,
    "width": 80,
    "mean": [],
    "std": [],
    "vocabulary": 81,
}


def test_card_of_a_model_of_text_survives_json():
    card = ModelCard.from_json(valid() | {"inputs": TEXT})

    assert card.inputs == InputSpec.tokens(80, 81)
    assert card.to_json()["inputs"] == TEXT
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_card_of_images_is_written_as_before_there_was_text():
    """Stored cards load, and the inputs of images are the same bytes."""
    assert ModelCard.from_json(valid()).to_json()["inputs"] == valid()["inputs"]


def test_card_of_before_there_were_widths_is_of_full_width():
    card = ModelCard.from_json(valid())

    assert card.model.options.width == 1.0
    assert card.to_json() == valid() | {"options": {"hidden": [4], "width": 1.0}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocabulary", 0),
        ("vocabulary", 257),
        ("vocabulary", True),
        ("width", 0),
        ("channels", 1),
        ("channels", False),
        ("height", 2),
        ("mean", [0.5]),
        ("std", None),
    ],
)
def test_card_inputs_of_text_out_of_range_are_refused(field, value):
    with pytest.raises(RecipeInvalid, match=f"card.inputs.{field}"):
        ModelCard.from_json(valid() | {"inputs": TEXT | {field: value}})


def test_card_of_an_architecture_that_is_not_installed_is_refused():
    with pytest.raises(UnknownModel, match='"cnnn": not installed here; did you mean') as caught:
        ModelCard.from_json(valid() | {"architecture": "cnnn"})

    assert caught.value.code == "UNKNOWN_MODEL"


@pytest.mark.parametrize("value", [None, [], "card", {}, {"architecture": "cnn"}])
def test_card_that_is_no_card_is_refused(value):
    with pytest.raises(RecipeInvalid, match="card"):
        ModelCard.from_json(value)


def test_card_keeps_the_options_that_are_texts_and_switches(make_card):
    options = MobileNetOptions(stem="imagenet", pretrained=True)

    card = make_card("mobilenet_v3_small", options, (3, 32, 32))

    assert ModelCard.from_json(card.to_json()).model.options == options
    assert ModelCard.from_json(make_card("cnn", CnnOptions(hidden=3)).to_json())


def test_card_and_options_import_no_torch():
    code = "import sys, fedfleet.models.card; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def valid() -> dict:
    inputs = {"channels": 1, "height": 8, "width": 8, "mean": [0.5], "std": [0.25]}
    return {
        "architecture": "mlp",
        "options": {"hidden": [4]},
        "inputs": inputs,
        "classes": ["a", "b"],
    }
