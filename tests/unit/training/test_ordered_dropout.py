from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedfleet.errors import RecipeInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import (
    CharLstmOptions,
    CnnOptions,
    MlpOptions,
    ModelConfig,
    ResNetOptions,
    VitOptions,
)
from fedfleet.models.width import narrowed
from fedfleet.training.ordered_dropout import OrderedDropout
from fedfleet.training.state import CPU, load_state, schema_of, state_of
from fedfleet.training.submodels import slice_between
from fedfleet.types import InputSpec, Kind

IMAGES = InputSpec(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.25,) * 3)
TOKENS = InputSpec.tokens(5, 9)
LABELS = torch.tensor([0, 1, 2, 1])


def card_of(architecture, options, inputs=IMAGES) -> ModelCard:
    model = ModelConfig(architecture=architecture, options=options)
    return ModelCard(model=model, inputs=inputs, classes=("a", "b", "c"))


CARDS = {
    "mlp": card_of("mlp", MlpOptions(hidden=(16, 12))),
    "cnn": card_of("cnn", CnnOptions(hidden=24)),
    "resnet18": card_of("resnet18", ResNetOptions(norm="group", width=0.25)),
    "vit": card_of("vit", VitOptions(depth=1)),
    "char_lstm": card_of("char_lstm", CharLstmOptions(hidden=16), TOKENS),
}


def batch(card: ModelCard) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    if card.inputs.is_tokens:
        return torch.randint(0, 9, (4, 5), generator=chance)
    return torch.randn(4, 3, 8, 8, generator=chance)


@pytest.mark.parametrize("name", list(CARDS))
def test_drawn_part_learns_as_the_narrow_model_by_itself(name):
    torch.manual_seed(0)
    card = CARDS[name]
    full = build(card)
    part = build(replace(card, model=narrowed(card.model, 0.5)))
    found = slice_between(full, part)
    load_state(part, found.cut(state_of(full, schema_of(full))))
    drops = OrderedDropout(full, card, [0.5], CPU).train()

    answers = drops(batch(card))
    F.cross_entropy(answers, LABELS).backward()
    want = part.train()(batch(card))
    F.cross_entropy(want, LABELS).backward()

    torch.testing.assert_close(answers, want)
    own = torch.cat([p.grad.flatten() for p in full.parameters()])
    theirs = torch.cat([p.grad.flatten() for p in part.parameters()])
    places = torch.from_numpy(found.places[Kind.TRAINABLE])
    torch.testing.assert_close(own[places], theirs)
    own[places] = 0
    assert (own == 0).all()
    assert theirs.abs().max() > 0


def test_widths_are_drawn_alike_often_and_the_same_by_one_seed():
    card = CARDS["mlp"]
    full = build(card)
    rates = (0.25, 0.5, 1.0)
    drops = OrderedDropout(full, card, rates, CPU).train()
    by_width = {
        float(drops_of(full, card, rate)(batch(card))[0, 0].detach()): rate for rate in rates
    }

    def drawn(seed: int, count: int) -> list[float]:
        drops.reseed(seed)
        answers = [drops(batch(card))[0, 0] for _ in range(count)]
        return [by_width[float(answer.detach())] for answer in answers]

    many = Counter(drawn(1, 600))
    assert drawn(2, 30) == drawn(2, 30)
    assert drawn(2, 30) != drawn(3, 30)
    assert all(150 < many[rate] < 250 for rate in rates)


def drops_of(full: nn.Module, card: ModelCard, rate: float) -> nn.Module:
    return OrderedDropout(full, card, [rate], CPU).train()


def test_evaluation_is_by_the_whole_model():
    card = CARDS["cnn"]
    full = build(card)
    drops = OrderedDropout(full, card, [0.25], CPU)

    assert torch.equal(drops.eval()(batch(card)), full(batch(card)))
    assert not torch.equal(drops.train()(batch(card)), full(batch(card)))


def test_parts_are_no_parameters_of_the_module():
    full = build(CARDS["cnn"])
    drops = OrderedDropout(full, CARDS["cnn"], [0.25, 0.5, 1.0], CPU)

    assert [id(p) for p in drops.parameters()] == [id(p) for p in full.parameters()]


def test_running_statistics_are_refused():
    card = card_of("cnn", CnnOptions(norm="batch"))

    with pytest.raises(RecipeInvalid, match="the model keeps statistics") as caught:
        OrderedDropout(build(card), card, [0.5], CPU)

    assert caught.value.code == "RECIPE_INVALID"


def test_width_that_an_architecture_does_not_take_is_refused():
    card = CARDS["mlp"]

    with pytest.raises(RecipeInvalid, match=r"width 0\.001"):
        OrderedDropout(build(card), card, [0.001], CPU)
