from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import InvalidInput
from fedfleet_inference_api import uploads
from fedfleet_inference_api.uploads import parse_json

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(NUMBERS | st.lists(NUMBERS, max_size=3)))
def test_numbers_are_the_same_one_by_one_and_all_at_once(value):
    body = json.dumps(value).encode()

    at_once = parse_json(body)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uploads, "_MANY_NUMBERS", -1)
        one_by_one = parse_json(body)

    assert repr(at_once) == repr(one_by_one) == repr(value)


@pytest.mark.parametrize("number", [b"128", b"0.5625"])
def test_other_threads_have_their_turn_while_many_numbers_are_read(number):
    """The event loop is one of them; the interpreter's own parser lets nobody."""
    numbers = 1_000_000
    body = b"[" + b",".join([number] * numbers) + b"]"
    is_read = threading.Event()
    turns = 0

    def read() -> None:
        parse_json(body, commas=numbers)
        is_read.set()

    reader = threading.Thread(target=read)
    reader.start()
    while not is_read.wait(0.001):
        turns += 1
    reader.join()

    assert turns >= 5


@pytest.mark.parametrize("text", [b"1e", b"--1", b"01", b"1_0", b"0x10", b"[1,]", b"9" * 5000])
def test_what_is_no_number_in_json_is_refused_among_many(text, monkeypatch):
    monkeypatch.setattr(uploads, "_MANY_NUMBERS", -1)

    with pytest.raises(InvalidInput):
        parse_json(b"[" + text + b"]")
