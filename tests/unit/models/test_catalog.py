from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedfleet.errors import RecipeInvalid, UnknownModel
from fedfleet.models import catalog
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import BUILDERS, PRETRAINED, build, build_initial
from fedfleet.models.config import BUILT_IN, OF_BOXES, OF_TEXT, CnnOptions, MlpOptions
from fedfleet.types import InputSpec


def detector(card: ModelCard) -> ModelCard:
    """The card of a detector of images that are large enough."""
    return replace(card, kind="detection", inputs=replace(card.inputs, height=64, width=64))


def test_every_built_in_has_options_and_a_builder():
    assert BUILDERS.keys() == BUILT_IN.keys()
    wants = {n for n, options in BUILT_IN.items() if "pretrained" in options.__dataclass_fields__}
    assert PRETRAINED.keys() == wants


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_every_built_in_learns_from_a_batch(make_card, name):
    torch.manual_seed(0)
    card = make_card(name, BUILT_IN[name](), (3, 32, 32), classes=4)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    if name in OF_TEXT:
        card = replace(card, inputs=InputSpec.tokens(12, 30))
        images = torch.randint(0, 30, (8, 12))
    if name in OF_BOXES:
        card = detector(card)
        images = torch.randn(8, *card.inputs.shape)
    model = build(card)

    answers = model(images)
    if name in OF_BOXES:  # every anchor answers; its first numbers are offsets
        answers = answers.mean(1)
        answers = answers[:, :4] + answers[:, 5:]
    loss = torch.nn.functional.cross_entropy(answers, labels)
    loss.backward()

    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() - OF_TEXT))
def test_model_of_another_kind_is_refused_with_those_that_fit(make_card, name):
    card = make_card(name, BUILT_IN[name](), (3, 64, 64))
    wrong = card if name in OF_BOXES else replace(card, kind="detection")

    with pytest.raises(RecipeInvalid) as caught:
        build(wrong)

    assert f'"{name}": answers with ' in caught.value.message
    assert ("mlp" in caught.value.message) == (name in OF_BOXES or name == "mlp")


@pytest.mark.parametrize("make", [build, build_initial])
def test_build_draws_from_torchs_global_generator(make_card, make):
    card = make_card("cnn", CnnOptions(hidden=8))

    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in make(card).parameters()]))

    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_unknown_architecture_is_refused_with_what_is_there(make_card):
    with pytest.raises(
        UnknownModel, match=r'"resnet50": not installed.*allowed: char_lstm, cnn, mlp'
    ) as caught:
        build(make_card("resnet50", {}))

    assert caught.value.code == "UNKNOWN_MODEL"


def test_small_models_do_not_load_torchvision(make_card):
    code = (
        "import sys\n"
        "from fedfleet.models.card import ModelCard\n"
        "from fedfleet.models.catalog import build\n"
        f"build(ModelCard.from_json({make_card('mlp', MlpOptions()).to_json()!r}))\n"
        "sys.exit('torchvision' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=Path(catalog.__file__).parents[2])

    assert done.returncode == 0
