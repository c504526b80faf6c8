from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.data.text import (
    LETTERS,
    UNKNOWN,
    OwnedText,
    Passages,
    encode,
    letter_names,
    text_inputs,
)


def test_letters_are_the_eighty_of_leaf():
    assert len(LETTERS) == len(set(LETTERS)) == 80
    assert (LETTERS[0], LETTERS[1], LETTERS[-1]) == ("\n", " ", "}")
    assert not set(LETTERS) & set("#$%*+/<=@^_`{|~")


def test_letter_names_can_be_seen_and_told_apart():
    names = letter_names()

    assert len(set(names)) == 80
    assert all(name.strip() and name.isprintable() for name in names)


@given(st.text(st.characters(codec=None) | st.sampled_from(LETTERS)))
def test_encode_numbers_letters_and_maps_everything_else_to_unknown(text):
    tokens = encode(text)

    assert tokens.dtype == np.uint8
    assert len(tokens) == len(text)
    for char, token in zip(text, tokens, strict=True):
        assert token == (LETTERS.index(char) if char in LETTERS else UNKNOWN)


def test_text_inputs_have_a_token_for_the_unknown():
    assert text_inputs(5).vocabulary == UNKNOWN + 1 == 81
    assert text_inputs(5).shape == (5,)


@given(st.text(st.sampled_from("ab\n$"), max_size=40), st.integers(1, 8))
def test_windows_are_every_sequence_that_a_known_character_follows(text, length):
    passages = Passages.windows(encode(text), length)

    want = [
        (text[at : at + length], text[at + length])
        for at in range(len(text) - length)
        if text[at + length] in LETTERS
    ]
    split = OwnedText({"only": passages}, length)
    tokens = split.load(np.arange(len(want)))
    assert [row.tolist() for row in tokens] == [encode(x).tolist() for x, _ in want]
    assert [LETTERS[label] for label in split.labels] == [y for _, y in want]


@given(st.integers(0, 50), st.integers(1, 60))
def test_thinned_spreads_over_the_whole_text(count, most):
    starts = np.arange(count, dtype=np.int64)
    thin = Passages(np.zeros(count, np.uint8), starts, starts).thinned(most)

    assert len(thin) == min(count, most)
    assert len(set(thin.starts.tolist())) == len(thin)
    if 1 < most < count:
        gaps = np.diff(thin.starts)
        assert gaps.max() - gaps.min() <= 1
        assert thin.starts[0] == 0


def test_owned_text_joins_owners_without_mixing_their_texts():
    split = OwnedText(
        {name: Passages.windows(encode(text), 2) for name, text in (("B", "xyzx"), ("A", "cde"))}, 2
    )

    assert split.owner_names == ("B", "A")
    assert split.owners.tolist() == [0, 0, 1]
    loaded = split.load(np.array([2, 0]))
    assert loaded.dtype == np.uint8
    assert loaded.tolist() == [encode("cd").tolist(), encode("xy").tolist()]
    assert [LETTERS[label] for label in split.labels] == ["z", "x", "e"]
