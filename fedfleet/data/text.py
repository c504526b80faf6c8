"""Text as token numbers, and a split of text: which character follows a sequence of characters.

Legend: N = examples of the split, n = examples asked for, T = tokens of an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfleet.data.images import Index, Labels, Pixels
from fedfleet.types import InputSpec

Tokens = npt.NDArray[np.uint8]

# The 80 characters of LEAF's language tasks, in its order.
LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
# LEAF's own look-up answers -1 for any other character. Here it is one more token, which a model
# reads like the others; no example asks to predict it.
UNKNOWN = len(LETTERS)

# By code point; the last place stands for all that come after.
_TABLE: Tokens = np.full(128, UNKNOWN, np.uint8)
_TABLE[[ord(letter) for letter in LETTERS]] = np.arange(len(LETTERS))


def letter_names() -> tuple[str, ...]:
    """A label for each letter: itself, where that can be seen."""
    unseen = {"\n": "newline", " ": "space"}
    return tuple(unseen.get(letter, letter) for letter in LETTERS)


def text_inputs(length: int) -> InputSpec:
    """The inputs of a model that reads so many characters."""
    return InputSpec.tokens(length, vocabulary=len(LETTERS) + 1)


def encode(text: str) -> Tokens:
    """The token number of each character, uint8, shape (characters,)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    tokens: Tokens = _TABLE[np.minimum(codes, len(_TABLE) - 1)]
    return tokens


@dataclass(frozen=True, eq=False)
class Passages:
    """One owner's examples: places in a text, and the token that follows each.

    Args:
        tokens: uint8, shape (characters,).
        starts: int64, shape (n,); where each example begins.
        labels: int64, shape (n,); the token after each, never ``UNKNOWN``.
    """

    tokens: Tokens
    starts: Index
    labels: Labels

    @classmethod
    def windows(cls, tokens: Tokens, length: int) -> Passages:
        """Every sequence of a text that a known character follows."""
        starts = np.flatnonzero(tokens[length:] < UNKNOWN)
        return cls(tokens, starts, tokens[starts + length].astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts)

    def part(self, rows: slice | Index) -> Passages:
        """Some of the examples, of the same text."""
        return Passages(self.tokens, self.starts[rows], self.labels[rows])

    def thinned(self, most: int) -> Passages:
        """At most so many examples, evenly spaced."""
        if len(self) <= most:
            return self
        return self.part(np.arange(most, dtype=np.int64) * len(self) // most)


class OwnedText:
    """A split of which each example belongs to an owner; cut out of the texts when asked for.

    Args:
        passages: by owner's name, in the order of their numbers; each has an example.
    """

    def __init__(self, passages: Mapping[str, Passages], length: int) -> None:
        parts = list(passages.values())
        before = np.cumsum([0, *(len(part.tokens) for part in parts)])
        self._tokens = np.concatenate([np.empty(0, np.uint8), *(part.tokens for part in parts)])
        starts = [part.starts + offset for part, offset in zip(parts, before, strict=False)]
        self._starts = np.concatenate([np.empty(0, np.int64), *starts])
        self._labels = np.concatenate([np.empty(0, np.int64), *(part.labels for part in parts)])
        self._owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        self._names = tuple(passages)
        self._places_T = np.arange(length)

    @property
    def labels(self) -> Labels:
        return self._labels

    @property
    def owners(self) -> Index:
        return self._owners

    @property
    def owner_names(self) -> tuple[str, ...]:
        return self._names

    def load(self, index: Index) -> Pixels:
        """The token numbers of some examples: uint8, shape (n, T)."""
        chosen: Pixels = self._tokens[self._starts[index][:, np.newaxis] + self._places_T]
        return chosen
