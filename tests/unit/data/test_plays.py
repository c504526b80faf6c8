from __future__ import annotations

from pathlib import Path

import pytest

from fedfleet.data.plays import read_plays
from fedfleet.errors import DataInvalid

PLAY = """First Citizen:
Speak,   speak.
He said: so
it was:

All:
Resolved.

First Citizen:
First, you know

KING EDWARD IV:

All:
"""


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_roles_say_all_their_speeches(tmp_path: Path):
    roles = read_plays([write(tmp_path, "play.txt", PLAY)])

    assert roles == {
        "First Citizen": "Speak, speak.\nHe said: so\nit was:\nFirst, you know",
        "All": "Resolved.\n",
        "KING EDWARD IV": "",
    }


def test_line_ends_of_windows_and_a_byte_order_mark_change_nothing(tmp_path: Path):
    plain = read_plays([write(tmp_path, "play.txt", PLAY)])

    odd = write(tmp_path, "play.txt", b"\xef\xbb\xbf" + PLAY.replace("\n", "\r\n").encode())

    assert read_plays([odd]) == plain


def test_of_several_plays_each_has_roles_of_its_own(tmp_path: Path):
    paths = [write(tmp_path, f"{name}.txt", f"All:\nIn {name}.\n") for name in ("one", "two")]

    assert read_plays(paths) == {"one: All": "In one.", "two: All": "In two."}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line"),
        ("nobody speaks\n", r'play.txt: no line "NAME:" opens a speech'),
        (b"All:\n\xff\xfe", "cannot be read as UTF-8"),
    ],
)
def test_text_that_is_no_play_is_refused(tmp_path: Path, text, message):
    with pytest.raises(DataInvalid, match=message) as caught:
        read_plays([write(tmp_path, "play.txt", text)])

    assert caught.value.code == "DATA_INVALID"
