from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cli.durations import parse_duration
from fedfleet.errors import SettingInvalid


@given(number=st.integers(1, 10**6), unit=st.sampled_from([("s", 1), ("m", 60), ("h", 3600)]))
def test_duration_is_a_number_times_its_unit(number: int, unit: tuple[str, int]) -> None:
    assert parse_duration("--valid", f"{number}{unit[0]}") == number * unit[1]


def test_duration_may_be_broken() -> None:
    assert parse_duration("--valid", " 1.5h ") == 5400.0
    assert parse_duration("--valid", "0.5d") == 43200.0


@pytest.mark.parametrize(
    "text", ["", "2", "h", "0h", "0.0d", "-1h", "2 h", "2H", "1e3s", "nan", "infd", "2h30m"]
)
def test_duration_refuses_anything_else(text: str) -> None:
    with pytest.raises(SettingInvalid, match=r"--valid .*as in 2h"):
        parse_duration("--valid", text)
