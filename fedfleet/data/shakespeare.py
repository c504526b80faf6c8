"""``shakespeare``: the next character of plays, where each speaking role is an owner.

The task of McMahan et al. 2017 and of LEAF, from ``DATA_DIR/shakespeare/``, which holds one of

- ``train/*.json`` and ``test/*.json``, or ``*.json``, as LEAF's scripts write them;
- ``*.txt``, plain text in which a line ``NAME:`` opens a speech.

What is not split yet is split within each role: the end of its text is for test. No character of a
test example was in a training one (LEAF lets one be, the last label; its scripts' option to shuffle
before splitting would let nearly all be).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedfleet.data.catalog import DatasetSource, DatasetSpec, Split
from fedfleet.data.config import ShakespeareOptions
from fedfleet.data.images import LabeledImages
from fedfleet.data.leaf import read_leaf
from fedfleet.data.plays import read_plays
from fedfleet.data.text import OwnedText, Passages, encode, letter_names, text_inputs
from fedfleet.errors import DataEmpty, DataMissing

NAME = "shakespeare"
# The examples of a role, for training and for test.
Halves = tuple[Passages, Passages]


@dataclass(frozen=True)
class Shakespeare:
    """The data set."""

    def describe(self, options: ShakespeareOptions) -> DatasetSpec:
        return DatasetSpec(text_inputs(options.sequence), letter_names())

    def open(
        self, options: ShakespeareOptions, split: Split, data_dir: Path | None
    ) -> LabeledImages:
        """Read the texts and note where the examples of a split are."""
        if data_dir is None:
            raise DataMissing(
                f"{NAME}: set FEDFLEET_DATA_DIR (or --data-dir) to the folder that holds {NAME}/"
            )
        half = 0 if split == "train" else 1
        roles = _read(data_dir / NAME, options)
        chosen = {
            name: _thinned(halves, options)[half]
            for name, halves in sorted(roles.items())
            if len(halves[0]) >= options.min_samples and len(halves[half])
        }
        if not chosen:
            raise DataEmpty(
                f"{NAME}/: no role has {options.min_samples} training examples; "
                "lower data.min_samples or data.sequence"
            )
        return OwnedText(chosen, options.sequence)


def _read(folder: Path, options: ShakespeareOptions) -> dict[str, Halves]:
    """The examples of each role, whatever form they lie there in."""
    length = options.sequence
    split = [sorted((folder / part).glob("*.json")) for part in ("train", "test")]
    if all(split):
        train, test = (read_leaf(paths, length) for paths in split)
        nothing = Passages.windows(encode(""), length)
        return {name: (own, test.get(name, nothing)) for name, own in train.items()}
    if files := sorted(folder.glob("*.json")):
        roles = read_leaf(files, length)
        return {name: _split_examples(own, options) for name, own in roles.items()}
    if files := sorted(folder.glob("*.txt")):
        texts = read_plays(files)
        return {name: _split_text(text, options) for name, text in texts.items()}
    raise DataMissing(
        f"the data folder holds no {NAME}/ with *.txt, or with LEAF's *.json or train/*.json and "
        "test/*.json"
    )


def _split_text(text: str, options: ShakespeareOptions) -> Halves:
    tokens = encode(text)
    end = int(len(tokens) * (1 - options.test_fraction))
    train, test = (Passages.windows(p, options.sequence) for p in (tokens[:end], tokens[end:]))
    return train, test


def _split_examples(own: Passages, options: ShakespeareOptions) -> Halves:
    """Split sequences that begin one character after the other: as many of them lie between the
    halves as have a character in both.
    """
    end = int(len(own) * (1 - options.test_fraction))
    return own.part(slice(0, end)), own.part(slice(end + options.sequence, None))


def _thinned(halves: Halves, options: ShakespeareOptions) -> Halves:
    if options.max_samples is None:
        return halves
    train, test = halves
    most_test = options.max_samples * options.test_fraction / (1 - options.test_fraction)
    return train.thinned(options.max_samples), test.thinned(max(1, round(most_test)))


SHAKESPEARE: DatasetSource = Shakespeare()
