from __future__ import annotations

import pytest

from fedfleet.errors import InvalidInput
from fedfleet.store.protocols import RunState, check_alias


def test_final_states_are_the_last_three() -> None:
    assert [state.final for state in RunState] == [False, False, True, True, True]


@pytest.mark.parametrize("alias", ["latest", "v1", "1a", "blue-green_2.1", "A" * 64])
def test_check_alias_takes_names(alias: str) -> None:
    check_alias(alias)


@pytest.mark.parametrize("alias", ["", "0", "12", "\u00b2", "a b", "x/y", "A" * 65])
def test_check_alias_refuses_numbers_and_odd_names(alias: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_alias(alias)

    assert caught.value.code == "INVALID_INPUT"
