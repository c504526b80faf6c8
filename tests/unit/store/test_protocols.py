from __future__ import annotations

import pytest

from fedfleet.errors import InvalidInput
from fedfleet.store.protocols import RunState, check_alias


def test_final_states_are_the_last_three() -> None:
    assert [state.final for state in RunState] == [False, False, True, True, True]


@pytest.mark.parametrize("alias", ["latest", "v1", "1a", "\u00b2", "a b"])
def test_check_alias_takes_names(alias: str) -> None:
    check_alias(alias)


@pytest.mark.parametrize("alias", ["", "0", "12"])
def test_check_alias_refuses_numbers(alias: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_alias(alias)

    assert caught.value.code == "INVALID_INPUT"
