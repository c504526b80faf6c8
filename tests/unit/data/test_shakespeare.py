from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.config import DataConfig, ShakespeareOptions
from fedfleet.data.images import OwnedImages
from fedfleet.data.shard import Shards
from fedfleet.data.text import LETTERS, encode
from fedfleet.errors import DataEmpty, DataMissing, RecipeInvalid

ROOT = Path(__file__).parents[3]
LINES = {"KING": "abcdefghij" * 6, "ALL": "uvwxyz" * 8, "FOOL": "mnop"}


def config(workers: int | None = None, **values: object) -> DataConfig:
    options = ShakespeareOptions(**{"sequence": 5, "min_samples": 4, **values})
    partition = "none" if workers is None else "natural"
    return DataConfig(dataset="shakespeare", options=options, partition=partition, workers=workers)


@pytest.fixture
def plays(tmp_path: Path) -> Path:
    folder = tmp_path / "shakespeare"
    folder.mkdir()
    text = "\n\n".join(f"{name}:\n{words}" for name, words in LINES.items())
    (folder / "play.txt").write_text(text + "\n")
    return tmp_path


def windows(text: str) -> list[tuple[str, str]]:
    return [(text[at : at + 5], text[at + 5]) for at in range(len(text) - 5)]


def held(split: OwnedImages) -> dict[str, list[tuple[str, str]]]:
    """Each owner's examples as text."""
    tokens = split.load(np.arange(len(split.labels)))
    rows: dict[str, list[tuple[str, str]]] = {name: [] for name in split.owner_names}
    for owner, row, label in zip(split.owners, tokens, split.labels, strict=True):
        rows[split.owner_names[owner]].append(("".join(LETTERS[t] for t in row), LETTERS[label]))
    return rows


def test_plain_text_is_split_within_each_role(plays: Path):
    train, test = (held(open_dataset(config(), split, plays)) for split in ("train", "test"))

    # The fool says too little.
    assert train == {"ALL": windows(LINES["ALL"][:38]), "KING": windows(LINES["KING"][:48])}
    assert test == {"ALL": windows(LINES["ALL"][38:]), "KING": windows(LINES["KING"][48:])}


def test_examples_are_thinned_over_the_whole_text(plays: Path):
    chosen = config(max_samples=8)

    train, test = (held(open_dataset(chosen, split, plays)) for split in ("train", "test"))

    assert {name: len(rows) for name, rows in train.items()} == {"ALL": 8, "KING": 8}
    assert {name: len(rows) for name, rows in test.items()} == {"ALL": 2, "KING": 2}
    assert set(train["KING"]) <= set(windows(LINES["KING"][:48]))


def leaf(rows: dict[str, list[tuple[str, str]]]) -> str:
    data = {
        name: {"x": [x for x, _ in own], "y": [y for _, y in own]} for name, own in rows.items()
    }
    return json.dumps({"users": list(rows), "user_data": data})


def test_leafs_own_split_is_kept(tmp_path: Path):
    train = {"B": windows(LINES["ALL"]), "A": windows(LINES["KING"])}
    test = {"A": windows("fghijabc"), "C": windows("abcdefgh")}
    for split, rows in (("train", train), ("test", test)):
        (tmp_path / "shakespeare" / split).mkdir(parents=True)
        (tmp_path / "shakespeare" / split / "all_data_0.json").write_text(leaf(rows))

    opened = [held(open_dataset(config(), split, tmp_path)) for split in ("train", "test")]

    assert opened == [train, {"A": test["A"]}]  # nobody trains for C


def test_leafs_unsplit_files_are_split_without_a_shared_character(tmp_path: Path):
    (tmp_path / "shakespeare").mkdir()
    text = "".join(LETTERS[2:62])  # each character once, so that a shared one shows
    (tmp_path / "shakespeare" / "all_data.json").write_text(leaf({"A": windows(text)}))

    train, test = (
        held(open_dataset(config(), split, tmp_path))["A"] for split in ("train", "test")
    )

    assert train == windows(text)[:44]
    assert test == windows(text)[49:]
    seen, unseen = (set("".join(x + y for x, y in rows)) for rows in (train, test))
    assert not seen & unseen


def test_natural_shards_hold_the_same_roles_in_both_splits(plays: Path):
    shards = Shards(config(workers=2), seed=3, data_dir=plays)

    names = [own[0] for own in shards.owners]
    assert sorted(names) == ["ALL", "KING"]
    for number, name in enumerate(names):
        for split in ("train", "test"):
            examples = shards.load(split, number)
            letters = {LETTERS[token] for token in np.unique(examples.images)}
            assert letters <= set(LINES[name])
            assert examples.images.shape == (len(examples), 5)
    assert len(shards.load("test", None)) == sum(len(shards.load("test", i)) for i in (0, 1))


def test_describe_needs_no_data_and_knows_the_letters():
    spec = describe(config(sequence=80))

    assert spec.inputs.shape == (80,)
    assert spec.inputs.vocabulary == 81
    assert len(spec.classes) == 80
    assert spec.classes[:3] == ("newline", "space", "!")


@pytest.mark.parametrize("data_dir", [None, Path("/nowhere")])
def test_missing_text_is_named(data_dir):
    with pytest.raises(DataMissing, match="shakespeare/"):
        open_dataset(config(), "train", data_dir)


def test_text_too_short_for_an_example_is_empty(plays: Path):
    with pytest.raises(DataEmpty, match="no role has 4 training examples"):
        open_dataset(config(sequence=80), "train", plays)


def test_noise_on_text_is_refused(plays: Path):
    chosen = DataConfig(
        dataset="shakespeare",
        options=ShakespeareOptions(),
        partition="iid",
        workers=2,
        feature_noise=0.1,
    )

    with pytest.raises(RecipeInvalid, match=r"feature_noise = 0.1: is added to images"):
        describe(chosen)


def test_real_plays_have_their_roles():
    folder = Path(os.environ.get("FEDFLEET_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "shakespeare" / "input.txt").exists():
        pytest.skip(f"no shakespeare/input.txt in {folder}")
    chosen = config(sequence=80, min_samples=1000)

    train, test = (open_dataset(chosen, split, folder) for split in ("train", "test"))

    assert len(train.owner_names) == 120
    assert set(train.owner_names) == set(test.owner_names) >= {"GLOUCESTER", "ROMEO"}
    text = "".join(LETTERS[token] for token in train.load(np.array([0]))[0, :30])
    assert text in (folder / "shakespeare" / "input.txt").read_text()
    assert 0.15 < len(test.labels) / (len(test.labels) + len(train.labels)) < 0.2
    space = encode(" ")[0]
    assert 0.12 < (train.labels == space).mean() < 0.18
