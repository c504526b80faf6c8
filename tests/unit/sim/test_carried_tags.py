from __future__ import annotations

import pytest

from fedfleet.errors import SettingInvalid
from fedfleet.sim.carried_tags import parse_tags


def test_tags_are_read_by_worker() -> None:
    text = 'worker-0 = ["pi", "shed"]\nworker-3 = []\n'

    assert parse_tags(text) == {"worker-0": ("pi", "shed"), "worker-3": ()}
    assert parse_tags("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker-0 = ", "not TOML"),
        ('worker-0 = "pi"', "must be a list of names"),
        ("worker-0 = [1]", "must be a list of names"),
        ('worker-0 = [""]', "must be a list of names"),
        ("[worker-0]", "must be a list of names"),
    ],
)
def test_tags_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingInvalid, match="tags: ") as caught:
        parse_tags(text)

    assert message in caught.value.message
