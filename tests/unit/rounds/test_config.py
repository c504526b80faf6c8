from __future__ import annotations

from typing import Any

import pytest

from fedfleet.rounds.config import MAX_TOTAL_WEIGHT, RoundsConfig


def test_cohort_is_the_quorum_unless_one_is_given() -> None:
    assert RoundsConfig(rounds=1, cohort=3).needed == 3
    assert RoundsConfig(rounds=1, cohort=3, quorum=2).needed == 2


def test_selection_awaits_the_cohort_and_its_spares_unless_told_otherwise() -> None:
    assert RoundsConfig(rounds=1, cohort=3, over_select=2).awaited == 5
    assert RoundsConfig(rounds=1, cohort=3, over_select=2, min_workers=4).awaited == 4


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rounds": 0}, "rounds = 0: must be from 1 to 1000000"),
        ({"rounds": 10**7}, "rounds = 10000000: must be from 1 to 1000000"),
        ({"cohort": 0}, "cohort = 0: must be from 1"),
        ({"over_select": -1}, "over_select = -1: must be from 0"),
        ({"attempts": 0}, "attempts = 0: must be from 1"),
        ({"max_weight": 0}, "max_weight = 0: must be from 1"),
        ({"max_weight": 1 << 31, "cohort": 64}, r"max_weight = 2147483648: times cohort \(64\)"),
        ({"quorum": 0}, r"quorum = 0: must be from 1 to cohort \(2\)"),
        ({"quorum": 3}, r"quorum = 3: must be from 1 to cohort \(2\)"),
        ({"min_workers": 1}, r"min_workers = 1: must be at least quorum \(2\)"),
        ({"deadline_s": 0.0}, "deadline_s = 0.0: must be above 0"),
        ({"deadline_s": float("nan")}, "deadline_s = nan: must be above 0"),
        ({"deadline_s": float("inf")}, "deadline_s = inf: must be above 0"),
        ({"deadline_slack": 2.0}, 'deadline_slack: is of deadline = "history"'),
        ({"deadline": "history", "deadline_quantile": 0.0}, "deadline_quantile = 0.0: must be abo"),
        ({"deadline": "history", "deadline_quantile": 1.1}, "deadline_quantile = 1.1: must be abo"),
        ({"deadline": "history", "deadline_slack": 0.9}, "deadline_slack = 0.9: must be from 1 to"),
        ({"deadline": "history", "min_deadline_s": 301}, r"min_deadline_s = 301: .* \(300.0\)"),
        ({"mode": "semi-synchronous", "deadline": "history"}, 'deadline = "history": in mode'),
        ({"mode": "semi-synchronous", "over_select": 1}, "over_select = 1: nobody is replaced"),
    ],
)
def test_config_names_field_value_and_what_is_allowed(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RoundsConfig(**{"rounds": 1, "cohort": 2, **changes})


def test_total_weight_may_reach_its_bound() -> None:
    config = RoundsConfig(rounds=1, cohort=32, max_weight=1 << 31)

    assert config.cohort * config.max_weight == MAX_TOTAL_WEIGHT


def test_deadline_of_a_history_has_defaults_that_fit_a_short_deadline_too() -> None:
    config = RoundsConfig(rounds=1, cohort=1, deadline="history", deadline_s=0.5)

    assert (config.quantile, config.slack, config.floor_s) == (0.9, 1.5, 0.5)
