from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from fedfleet.errors import RecipeInvalid
from fedfleet.models.catalog import build
from fedfleet.models.config import CharLstmOptions, CnnOptions
from fedfleet.types import InputSpec

TEXT = InputSpec.tokens(80, 81)
TINY = CharLstmOptions(embedding=4, hidden=16, layers=1)


def text_card(make_card, options=TINY, inputs=TEXT, classes=80):
    return replace(make_card("char_lstm", options, classes=classes), inputs=inputs)


def test_char_lstm_has_the_layers_of_the_paper(make_card):
    model = build(text_card(make_card, CharLstmOptions()))

    # One bias per gate, an embedding of 80 characters: 817,872. torch has a second bias for each
    # of 4 x 256 gates of each layer, and there is one more token, the unknown one.
    one_bias = 80 * 8 + 4 * 256 * (8 + 256 + 1) + 4 * 256 * (256 + 256 + 1) + 80 * (256 + 1)
    assert one_bias == 817_872
    assert sum(p.numel() for p in model.parameters()) == one_bias + 2 * 4 * 256 + 8
    assert list(model.buffers()) == []
    assert len(list(model.named_parameters())) == len(model.state_dict())


def test_char_lstm_answers_for_every_token_and_length(make_card):
    model = build(text_card(make_card))

    assert model(torch.arange(81)[None]).shape == (1, 80)
    assert model(torch.zeros(3, 7, dtype=torch.long)).shape == (3, 80)


def test_char_lstm_learns_the_order_of_characters(make_card):
    torch.manual_seed(0)
    model = build(text_card(make_card, inputs=InputSpec.tokens(4, 3), classes=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    tokens = torch.tensor([[0, 1, 2, 2], [1, 0, 2, 2]])  # the same ones, in another order
    labels = torch.tensor([0, 1])

    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(tokens), labels).backward()
        optimizer.step()

    assert model(tokens).argmax(1).tolist() == [0, 1]


def test_char_lstm_refuses_images_and_cnn_text(make_card):
    with pytest.raises(RecipeInvalid, match=r'"char_lstm": reads text, .*images; use cnn, mlp'):
        build(make_card("char_lstm", TINY))
    with pytest.raises(RecipeInvalid, match=r'"cnn": reads images, .*text; use char_lstm'):
        build(replace(make_card("cnn", CnnOptions()), inputs=TEXT))


@pytest.mark.parametrize("name", ["embedding", "hidden", "layers"])
def test_char_lstm_options_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} = 0"):
        CharLstmOptions(**{name: 0})
