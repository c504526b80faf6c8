"""Builds the package that docs/plugins.md shows, as an installed one, and trains with it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.config import DataConfig
from fedfleet.data.shard import load_examples
from fedfleet.errors import DataInvalid, DataMissing, RecipeInvalid, UnknownDataset, UnknownModel
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import ModelConfig
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.training.local import LocalTrainer, TrainTask
from fedfleet.training.state import initial_state
from fedfleet.training.submodels import SubModels
from fedfleet.types import InputSpec, Kind

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GUIDE = Path(__file__).parents[3] / "docs" / "plugins.md"
BLOCK = re.compile(r"^`([^`]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INPUTS = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The guide's files by name; its package is installed for the length of a test."""
    files = dict(BLOCK.findall(GUIDE.read_text()))
    entries = tomllib.loads(files["pyproject.toml"])["project"]["entry-points"]
    # Two more of one's own, to be wrong with.
    entries["fedfleet.models"]["broken"] = "stripes.model:absent"
    entries["fedfleet.models"]["no_module"] = "fedfleet.data.catalog:DatasetSpec"
    entries["fedfleet.models"]["no_function"] = "stripes.model:__name__"
    entries["fedfleet.datasets"]["broken"] = "stripes.absent:DATA"
    entries["fedfleet.datasets"]["no_data"] = "stripes.dataset:np"
    site = tmp_path / "site"
    for name, text in files.items():
        if name.endswith(".py"):
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)
    info = site / "stripes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1.0\n")
    lines = [
        line
        for group, items in entries.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in items.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(site))
    yield files
    for name in [name for name in sys.modules if name.split(".")[0] == "stripes"]:
        del sys.modules[name]


@pytest.fixture
def recipe(guide: dict[str, str]) -> Recipe:
    return parse_recipe(guide["stripes.toml"])


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Noisy stripes: horizontal where the row is even, vertical where it is odd."""
    random = np.random.default_rng(0)
    (tmp_path / "stripes").mkdir()
    for split, count in (("train", 120), ("test", 40)):
        images = random.integers(0, 100, (count, 1, 8, 8))
        images[0::2, :, ::2, :] += 150
        images[1::2, :, :, ::2] += 150
        np.save(tmp_path / "stripes" / f"{split}.npy", images.astype(np.uint8))
    return tmp_path


def card_of(recipe: Recipe) -> ModelCard:
    spec = describe(recipe.data)
    return ModelCard(model=recipe.model, inputs=spec.inputs, classes=spec.classes)


def test_plugins_train_to_tell_stripes_apart(recipe, data_dir):
    card = card_of(recipe)
    trainer = LocalTrainer(card, recipe.training, recipe.evaluation)
    received = initial_state(card, recipe.seed)
    shard = load_examples(recipe.data, "train", seed=recipe.seed, shard=1, data_dir=data_dir)
    test = load_examples(recipe.data, "test", seed=recipe.seed, shard=None, data_dir=data_dir)

    result = trainer.train(
        TrainTask(
            algorithm=make_algorithm(recipe.algorithm),
            received=received,
            examples=shard,
            seed=1,
            round=1,
            rounds=recipe.rounds.rounds,
            memory={},
            split_seed=1,
        )
    )
    trained = type(received)(
        received.schema,
        received.trainable + result.sections[0].values,
        result.sections[1].values,
        result.sections[2].values,
    )

    assert len(shard) == 60
    assert trainer.evaluate(trained, test).accuracy > 0.9


def test_plugin_card_survives_json(recipe):
    card = card_of(recipe)

    again = ModelCard.from_json(card.to_json())

    assert again == card
    assert build(again)[0].out_channels == 4


def test_plugin_model_options_are_checked(guide):
    for options, text in (
        ({"chanels": 4}, "options of model \"tiny_conv\" do not fit it: .*'chanels'"),
        ({"channels": 0}, 'model "tiny_conv": channels = 0: must be 1 or more'),
    ):
        with pytest.raises(RecipeInvalid, match=text) as caught:
            build(plugin_card("tiny_conv", options))
        assert caught.value.code == "RECIPE_INVALID"


def test_plugin_model_has_levels(recipe):
    models = SubModels(card_of(recipe), (1.0, 0.5, 0.25))

    assert [build(models.card(level))[0].out_channels for level in models.levels] == [4, 2, 1]
    assert models.slice("b").places[Kind.TRAINABLE].tolist()[:18] == list(range(18))
    assert (models.output("b") >= 0).sum() == 2 * 2 + 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("broken", "cannot be imported"),
        ("no_module", r"returned DatasetSpec, not a torch\.nn\.Module"),
        ("no_function", "is not callable"),
    ],
)
def test_plugin_model_that_is_none_is_refused(guide, name, text):
    with pytest.raises(UnknownModel, match=text) as caught:
        build(plugin_card(name, {}))

    assert caught.value.code == "UNKNOWN_MODEL"


def test_plugin_data_set_options_are_checked(guide):
    with pytest.raises(DataInvalid, match='data set "stripes": side = 3: must be') as caught:
        describe(DataConfig(dataset="stripes", options={"side": 3}))

    assert caught.value.code == "DATA_INVALID"


def test_plugin_data_set_that_is_none_is_refused(guide):
    for name, text in (("broken", "cannot be imported"), ("no_data", r"no_data\" has no describe")):
        with pytest.raises(UnknownDataset, match=text):
            describe(DataConfig(dataset=name, options={}))


def test_plugin_data_that_are_missing_or_of_another_shape_are_refused(recipe, data_dir):
    with pytest.raises(DataMissing, match=r"stripes/train.npy"):
        open_dataset(recipe.data, "train", None)

    np.save(data_dir / "stripes" / "train.npy", np.zeros((8, 1, 8, 9), np.uint8))
    with pytest.raises(DataInvalid, match=r"uint8 \(4, 1, 8, 9\), it describes them") as caught:
        load_examples(recipe.data, "train", seed=0, shard=0, data_dir=data_dir)
    assert caught.value.code == "DATA_INVALID"


def test_plugins_of_a_package_that_is_not_installed_are_unknown():
    with pytest.raises(UnknownModel, match="allowed: char_lstm, cnn"):
        build(plugin_card("tiny_conv", {}))
    with pytest.raises((UnknownModel, UnknownDataset)):
        parse_recipe(dict(BLOCK.findall(GUIDE.read_text()))["stripes.toml"])
    with pytest.raises(UnknownDataset):
        describe(DataConfig(dataset="stripes", options={}))


def plugin_card(name: str, options: dict[str, object]) -> ModelCard:
    model = ModelConfig(architecture=name, options=options)
    return ModelCard(model=model, inputs=INPUTS, classes=("horizontal", "vertical"))
