from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedfleet.errors import RecipeInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import (
    CharLstmOptions,
    CnnOptions,
    MlpOptions,
    MobileNetOptions,
    ModelConfig,
    ResNetOptions,
    VitOptions,
)
from fedfleet.models.vit import Attention
from fedfleet.training.state import load_state, schema_of, state_of
from fedfleet.training.submodels import SubModels, build_for_shapes, slice_between, tensor_places
from fedfleet.types import InputSpec, Kind, ModelState, ParamSpec

CLASSES = 5
RATES = (1.0, 0.5, 0.25, 0.125, 0.0625)


def images(side: int, channels: int = 3) -> InputSpec:
    return InputSpec(
        channels=channels,
        height=side,
        width=side,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def card_of(architecture, options, inputs):
    model = ModelConfig(architecture=architecture, options=options)
    return ModelCard(model=model, inputs=inputs, classes=tuple("abcdefgh"[:CLASSES]))


CARDS = {
    "mlp": card_of("mlp", MlpOptions(hidden=(20, 12)), images(6)),
    "cnn": card_of("cnn", CnnOptions(hidden=24), images(9)),
    "cnn batch": card_of("cnn", CnnOptions(hidden=24, norm="batch"), images(8)),
    "cnn group": card_of("cnn", CnnOptions(hidden=24, norm="group"), images(8)),
    "resnet18": card_of("resnet18", ResNetOptions(width=0.5), images(8)),
    "resnet18 none": card_of("resnet18", ResNetOptions(width=0.5, norm="none"), images(8)),
    "resnet18 group": card_of("resnet18", ResNetOptions(norm="group"), images(8)),
    "resnet18 of heterofl": card_of(
        "resnet18", ResNetOptions(width=0.5, blocks=(1, 1, 1, 2), preactivation=True), images(8)
    ),
    "mobilenet cifar": card_of("mobilenet_v3_small", MobileNetOptions(), images(16)),
    "mobilenet imagenet": card_of(
        "mobilenet_v3_small", MobileNetOptions(stem="imagenet"), images(32)
    ),
    "char_lstm": card_of(
        "char_lstm", CharLstmOptions(embedding=6, hidden=16), InputSpec.tokens(7, 11)
    ),
    "vit": card_of("vit", VitOptions(depth=2), images(8)),
}
# Their means run over all channels, also those that the narrow model does not have.
OVER_ALL_CHANNELS = {"vit"}
# A window of channels holds whole groups only where it begins with one.
OF_GROUPS = {"resnet18 group", "cnn group"}


def batch(inputs: InputSpec) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    if inputs.is_tokens:
        return torch.randint(0, inputs.vocabulary, (4, inputs.width), generator=chance)
    return torch.randn(4, *inputs.shape, generator=chance)


def random_state(module: nn.Module, seed: int = 0) -> ModelState:
    """Every weight and statistic at random; variances are positive."""
    draws, schema = np.random.default_rng(seed), schema_of(module)
    return ModelState(
        schema,
        draws.normal(0, 0.3, schema.elements(Kind.TRAINABLE)).astype(np.float32),
        draws.uniform(0.5, 2, schema.elements(Kind.STATISTIC)).astype(np.float32),
        draws.integers(1, 9, schema.elements(Kind.COUNTER)),
    )


def only(state: ModelState, places: np.ndarray) -> ModelState:
    """The state with zeros at all other places of the trainable vector."""
    kept = np.zeros_like(state.trainable)
    kept[places] = state.trainable[places]
    return replace(state, trainable=kept)


def answers_of_both(full: nn.Module, part: nn.Module, inputs: Tensor, shift: int = 0):
    """What the wide module, with zeros outside the slice, and the narrow one answer."""
    found = slice_between(full, part, shift=shift)
    state = random_state(full)
    load_state(full, only(state, found.places[Kind.TRAINABLE]))
    load_state(part, found.cut(state))
    with torch.no_grad():
        return full.eval()(inputs), part.eval()(inputs)


def pair(card: ModelCard, level: str) -> tuple[nn.Module, nn.Module]:
    return build(card), build(SubModels(card, RATES).card(level))


@pytest.mark.parametrize("level", ["b", "c", "e"])
@pytest.mark.parametrize("name", [name for name in CARDS if name not in OVER_ALL_CHANNELS])
def test_narrow_model_is_the_wide_one_with_zeros_elsewhere(name, level):
    full, part = pair(CARDS[name], level)

    wide, narrow = answers_of_both(full, part, batch(CARDS[name].inputs))

    assert wide.abs().max() > 1e-3
    torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=1e-4 * float(wide.abs().max()))


@pytest.mark.parametrize("shift", [1, 3, 61])
@pytest.mark.parametrize(
    "name", [name for name in CARDS if name not in OVER_ALL_CHANNELS | OF_GROUPS]
)
def test_window_of_channels_is_the_same_in_every_layer(name, shift):
    full, part = pair(CARDS[name], "b")

    wide, narrow = answers_of_both(full, part, batch(CARDS[name].inputs), shift)

    assert wide.abs().max() > 1e-3
    torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=1e-4 * float(wide.abs().max()))


class Longer(nn.Module):
    """Attention with its queries scaled, as if its heads were as long as the wide model's."""

    def __init__(self, attention: nn.Module, rows: int, scale: float) -> None:
        super().__init__()
        self.attention = attention
        self._rows, self._scale = rows, scale

    def forward(self, patches_BTD: Tensor) -> Tensor:
        with torch.no_grad():
            for name, param in self.attention.named_parameters():
                if "qkv" in name or "in_proj" in name:
                    param[: self._rows] *= self._scale
        if isinstance(self.attention, nn.MultiheadAttention):
            return self.attention(patches_BTD, patches_BTD, patches_BTD)[0]
        return self.attention(patches_BTD)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize(
    "make",
    [Attention, lambda dim, heads: nn.MultiheadAttention(dim, heads, batch_first=True)],
)
def test_heads_of_attention_get_shorter_each(make, shift):
    heads, dim, small = 4, 32, 8
    full, part = make(dim, heads), make(small, heads)
    found = slice_between(full, part, shift=shift)
    state = random_state(full)
    load_state(full, only(state, found.places[Kind.TRAINABLE]))
    load_state(part, found.cut(state))
    here = np.sort((shift + np.arange(small)) % dim)
    narrow_in = torch.randn(2, 6, small)
    wide_in = torch.zeros(2, 6, dim)
    wide_in[:, :, here] = narrow_in

    # Scores are divided by the root of a head's length, of which the narrow one has a quarter.
    wide = Longer(full, dim, 1.0).eval()(wide_in)
    narrow = Longer(part, small, (small / dim) ** 0.5).eval()(narrow_in)

    assert narrow.abs().max() > 1e-2
    torch.testing.assert_close(narrow, wide[:, :, here])
    torch.testing.assert_close(wide.abs().sum(), narrow.abs().sum())  # and nothing elsewhere


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("shift", [0, 5])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_gates_of_recurrent_layers_get_shorter_each(kind, shift, both_ways):
    full, part = (
        kind(3, units, num_layers=2, batch_first=True, bidirectional=both_ways) for units in (8, 4)
    )
    found = slice_between(full, part, shift=shift)
    state = random_state(full)
    load_state(full, only(state, found.places[Kind.TRAINABLE]))
    load_state(part, found.cut(state))
    inputs = torch.randn(2, 5, 3)
    here = np.sort((shift + np.arange(4)) % 8)

    wide, narrow = full(inputs)[0], part(inputs)[0]

    here = np.concatenate([here, here + 8]) if both_ways else here
    assert narrow.abs().max() > 1e-2
    torch.testing.assert_close(narrow, wide[:, :, here])


@pytest.mark.parametrize("name", list(CARDS))
def test_levels_nest_and_shrink_with_the_square_of_their_width(name):
    models = SubModels(CARDS[name], RATES)

    counts = [models.schema(level).elements(Kind.TRAINABLE) for level in models.levels]
    spans = [models.slice(level).span(Kind.TRAINABLE) for level in models.levels]
    places = [np.arange(counts[0])[span] for span in spans]

    assert models.levels == ("a", "b", "c", "d", "e")
    assert [models.rate(level) for level in models.levels] == list(RATES)
    assert places[0].tolist() == list(range(counts[0]))
    assert counts == [len(here) for here in places]
    for wide, narrow in pairwise(places):
        assert np.isin(narrow, wide).all()
    for wide, narrow in pairwise(counts):
        assert 0.25 <= narrow / wide < 0.75  # what inputs and classes enter shrinks by half only


@pytest.mark.parametrize("name", list(CARDS))
def test_cut_of_a_level_is_a_state_of_its_model(name):
    models = SubModels(CARDS[name], RATES)
    state = random_state(build(CARDS[name]))

    for level in models.levels:
        part = build(models.card(level))
        load_state(part, models.slice(level).cut(state))
        assert (state_of(part, models.schema(level)).counters == state.counters).all()


@pytest.mark.parametrize("level", ["a", "c"])
@pytest.mark.parametrize("name", list(CARDS))
def test_output_names_the_row_of_each_class(name, level):
    models = SubModels(CARDS[name], RATES)
    part, rows = build(models.card(level)), models.output(level)
    inputs, state = batch(CARDS[name].inputs), random_state(part)

    def answers(kept: np.ndarray) -> Tensor:
        load_state(part, replace(state, trainable=np.where(kept, state.trainable, 0)))
        with torch.no_grad():
            return part.eval()(inputs)

    every = answers(np.ones_like(rows, bool))
    for row in range(CLASSES):
        without = answers(rows != row)
        others = [k for k in range(CLASSES) if k != row]
        assert torch.equal(without[:, others], every[:, others])
        assert (without[:, row] == 0).all()
        assert (every[:, row] != 0).all()
    assert (rows >= 0).sum() == CLASSES * (rows == 0).sum()
    assert rows.dtype == np.int32


@pytest.mark.parametrize("name", ["mlp", "cnn", "char_lstm"])
def test_rolling_slice_reaches_every_channel(name):
    models = SubModels(CARDS[name], RATES)
    longest = 64  # axis of channels
    first = models.schema("a").params[0].elements  # from inputs to channels
    seen = np.zeros(models.schema("a").elements(Kind.TRAINABLE), int)

    for round in range(1, longest + 1):
        places = models.slice("b", round, rolling=True).places[Kind.TRAINABLE]
        assert len(places) == models.schema("b").elements(Kind.TRAINABLE)
        seen[places] += 1

    assert (seen[:first] > 0).all()
    assert models.slice("b", 1, rolling=True) is models.slice("b", 7)
    assert not models.slice("a", 2, rolling=True).places  # all of it


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 12), st.data())
def test_tensor_places_are_of_the_same_channels_in_every_block(blocks, length, channels, data):
    narrow = data.draw(st.integers(1, channels))
    shift = data.draw(st.integers(0, 30))
    wide, small = (
        ParamSpec("w", (3, blocks * n * length), Kind.TRAINABLE) for n in (channels, narrow)
    )

    places = tensor_places(wide, small, {1: (blocks, length)}, shift)

    start = shift if narrow < channels else 0
    window = {(start + step) % channels for step in range(narrow)}
    want = [
        place for place in range(wide.elements) if place % (channels * length) // length in window
    ]
    assert places.tolist() == want


@pytest.mark.parametrize("rates", [(), (0.5,), (1.0, 1.0), (1.0, 0.25, 0.5)])
def test_rates_that_do_not_fall_from_one_are_refused(rates):
    with pytest.raises(RecipeInvalid, match=r"must begin with 1\.0 and fall"):
        SubModels(CARDS["mlp"], rates)


def test_rate_below_what_an_architecture_takes_is_refused():
    with pytest.raises(RecipeInvalid, match=r"levels\.rates: 0\.001: width = 0\.001: must be"):
        SubModels(CARDS["mlp"], (1.0, 0.001))


def test_model_that_gets_no_narrower_is_refused():
    with pytest.raises(RecipeInvalid, match=r'"mlp" is no narrower at rate 0\.99 than at 1\.0'):
        SubModels(CARDS["mlp"], (1.0, 0.99))
    softmax = replace(
        CARDS["mlp"], model=ModelConfig(architecture="mlp", options=MlpOptions(hidden=()))
    )
    with pytest.raises(RecipeInvalid, match=r'"mlp" is no narrower at rate 0\.5'):
        SubModels(softmax, (1.0, 0.5))


@pytest.mark.parametrize(
    ("full", "part", "text"),
    [
        (nn.Linear(4, 4), nn.Linear(5, 4), r"weight of a narrower model has shape \(4, 5\)"),
        (nn.Linear(4, 4), nn.Linear(4, 4, bias=False), "has other tensors"),
        (nn.Linear(4, 4), nn.Conv1d(4, 4, 1), "which is no part of"),
        (
            nn.MultiheadAttention(8, 4),
            nn.MultiheadAttention(8, 2),
            "width_axes of a narrower model are not those",
        ),
    ],
)
def test_modules_that_do_not_nest_are_refused(full, part, text):
    with pytest.raises(RecipeInvalid, match=text) as caught:
        slice_between(full, part)

    assert caught.value.code == "RECIPE_INVALID"


def test_blocks_that_do_not_divide_an_axis_are_refused():
    full, part = nn.Linear(3, 8), nn.Linear(3, 6)
    full.width_axes = part.width_axes = {"weight": {0: (4, 1)}}

    with pytest.raises(RecipeInvalid, match=r"see width_axes in docs/plugins\.md"):
        slice_between(full, part)


def test_plug_in_that_knows_no_width_is_refused(tiny_card):
    with pytest.raises(RecipeInvalid, match=r"levels: architecture = .tiny.: .*'width'"):
        SubModels(tiny_card(), (1.0, 0.5))


def test_plug_in_that_computes_with_its_first_weights_has_shapes(tiny_card, monkeypatch):
    card = tiny_card()
    build(card)  # imports it
    module = sys.modules["fedfleet_tiny_plugin"]
    plain = module.Tiny.__init__

    def uses_its_weights(self, *args, **options):
        plain(self, *args, **options)
        self.scale = float(self.head.weight.abs().max())

    monkeypatch.setattr(module.Tiny, "__init__", uses_its_weights)

    assert schema_of(build_for_shapes(card)) == schema_of(build(card))
