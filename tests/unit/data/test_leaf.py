from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.data.leaf import read_leaf
from fedfleet.data.text import encode
from fedfleet.errors import DataInvalid


def write(folder: Path, name: str, document: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def document(**users: list[tuple[str, str]]) -> dict:
    """A file as LEAF's scripts write it."""
    return {
        "users": list(users),
        "num_samples": [len(rows) for rows in users.values()],
        "user_data": {
            name: {"x": [x for x, _ in rows], "y": [y for _, y in rows], "raw": ""}
            for name, rows in users.items()
        },
    }


def test_users_keep_their_sequences(tmp_path: Path):
    paths = [
        write(tmp_path, "a.json", document(PLAY_ALL=[("ab", "c"), ("bc", "d")])),
        write(tmp_path, "b.json", document(PLAY_KING=[("xy", "z")])),
    ]

    found = read_leaf(paths, 2)

    assert sorted(found) == ["PLAY_ALL", "PLAY_KING"]
    assert found["PLAY_ALL"].tokens.tolist() == encode("abbc").tolist()
    assert found["PLAY_ALL"].starts.tolist() == [0, 2]
    assert found["PLAY_ALL"].labels.tolist() == encode("cd").tolist()


def test_unknown_characters_are_read_and_not_predicted(tmp_path: Path):
    path = write(tmp_path, "a.json", document(U=[("a\u00f6", "c"), ("bc", "\u00f6"), ("cd", "e")]))

    own = read_leaf([path], 2)["U"]

    assert own.starts.tolist() == [0, 4]
    assert own.labels.tolist() == encode("ce").tolist()
    assert own.tokens[:2].tolist() == [*encode("a"), 80]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], "is not a file of LEAF"),
        ({"users": []}, "is not a file of LEAF"),
        ({"user_data": {"U": {"x": ["ab"]}}}, "is not a file of LEAF"),
        ({"user_data": {"U": {"x": 3, "y": 3}}}, "is not a file of LEAF"),
        (document(U=[("ab", "cd")]), "user 'U' needs one character in y"),
        ({"user_data": {"U": {"x": ["ab"], "y": []}}}, "user 'U' needs one character in y"),
        (document(U=[("abc", "d")]), "user 'U' has a sequence that is not 2 characters long"),
    ],
)
def test_file_that_is_not_leafs_is_refused(tmp_path: Path, content, text):
    with pytest.raises(DataInvalid, match=text) as caught:
        read_leaf([write(tmp_path, "odd.json", content)], 2)

    assert "odd.json" in caught.value.message


def test_user_in_two_files_is_refused(tmp_path: Path):
    paths = [write(tmp_path, name, document(U=[("ab", "c")])) for name in ("a.json", "b.json")]

    with pytest.raises(DataInvalid, match=r"b.json: user 'U' stands in another file"):
        read_leaf(paths, 2)


@given(content=st.binary(max_size=60))
def test_bytes_that_are_no_json_are_refused(tmp_path_factory: pytest.TempPathFactory, content):
    path = tmp_path_factory.mktemp("leaf") / "odd.json"
    path.write_bytes(content)

    with pytest.raises(DataInvalid):
        read_leaf([path], 2)


def test_user_without_sequences_has_none(tmp_path: Path):
    own = read_leaf([write(tmp_path, "a.json", document(U=[]))], 2)["U"]

    assert len(own) == 0
    assert own.labels.dtype == np.int64
