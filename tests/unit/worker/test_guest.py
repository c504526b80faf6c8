from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_worker.guest import (
    CALMER,
    COOLER_CELSIUS,
    DAY_S,
    FULLER_RATIO,
    NO_PAUSE,
    Condition,
    Hours,
    Limits,
    Pause,
    parse_hours,
    why_paused,
)

NOON_S = 12 * 3600
SECONDS = st.integers(0, DAY_S - 1)
RATIOS = st.floats(0, 1)
LIMITS = st.builds(
    Limits,
    hours=st.none() | st.builds(Hours, SECONDS, SECONDS),
    temperature_celsius=st.none() | st.floats(1, 120),
    battery_ratio=st.none() | st.floats(0.01, 1),
    mains_only=st.booleans(),
    network=st.sampled_from(["any", "unmetered"]),
    load_ratio=st.none() | st.floats(0.01, 1),
)
CONDITIONS = st.builds(
    Condition,
    at_s=SECONDS,
    temperature_celsius=st.none() | st.floats(-40, 150),
    battery_ratio=st.none() | RATIOS,
    on_battery=st.none() | st.booleans(),
    is_metered=st.none() | st.booleans(),
    others_ratio=st.none() | RATIOS,
)
ANY_PAUSE = st.builds(why_paused, LIMITS, CONDITIONS)

# Laws


@given(CONDITIONS, ANY_PAUSE)
def test_worker_without_limits_never_rests(condition: Condition, before: Pause) -> None:
    assert why_paused(Limits(), condition, before) == NO_PAUSE


@given(LIMITS, SECONDS, ANY_PAUSE)
def test_worker_that_measures_nothing_rests_for_its_hours_alone(
    limits: Limits, at_s: int, before: Pause
) -> None:
    pause = why_paused(limits, Condition(at_s=at_s), before)

    assert pause.limits <= {"hours"}


@given(LIMITS, CONDITIONS, ANY_PAUSE)
def test_pause_has_a_reason_of_one_line_exactly_when_a_limit_is_passed(
    limits: Limits, condition: Condition, before: Pause
) -> None:
    pause = why_paused(limits, condition, before)

    assert bool(pause.reason) == bool(pause.limits)
    assert "\n" not in pause.reason
    assert pause.reason.count(";") == max(0, len(pause.limits) - 1)
    assert (pause.at_least_s > 0) == ("hours" in pause.limits)


@given(LIMITS, CONDITIONS)
def test_pause_goes_on_for_as_long_as_nothing_changes(limits: Limits, condition: Condition) -> None:
    pause = why_paused(limits, condition)

    assert why_paused(limits, condition, pause).limits == pause.limits


@given(LIMITS, CONDITIONS, ANY_PAUSE)
def test_what_was_passed_makes_resting_longer_and_never_shorter(
    limits: Limits, condition: Condition, before: Pause
) -> None:
    fresh = why_paused(limits, condition)
    kept = why_paused(limits, condition, before)

    assert fresh.limits <= kept.limits <= fresh.limits | before.limits


@given(st.floats(1, 120), st.lists(st.floats(-40, 150), max_size=20))
def test_temperature_pauses_above_the_limit_and_resumes_five_degrees_below(
    limit: float, readings: list[float]
) -> None:
    limits, pause = Limits(temperature_celsius=limit), NO_PAUSE
    for celsius in readings:
        was_paused = bool(pause.limits)
        pause = why_paused(limits, Condition(at_s=0, temperature_celsius=celsius), pause)

        if celsius > limit:
            assert pause.limits
        elif celsius <= limit - COOLER_CELSIUS:
            assert not pause.limits
        else:
            assert bool(pause.limits) == was_paused


@given(st.floats(0.01, 1), st.lists(RATIOS, max_size=20))
def test_load_pauses_above_the_limit_and_resumes_well_below(
    limit: float, readings: list[float]
) -> None:
    limits, pause = Limits(load_ratio=limit), NO_PAUSE
    for ratio in readings:
        was_paused = bool(pause.limits)
        pause = why_paused(limits, Condition(at_s=0, others_ratio=ratio), pause)

        expected = ratio > limit or (was_paused and ratio > limit * CALMER)
        assert bool(pause.limits) == expected


@given(st.builds(Hours, SECONDS, SECONDS), SECONDS)
def test_hours_are_open_after_what_they_say_is_left(hours: Hours, at_s: int) -> None:
    wait_s = hours.opens_in_s(at_s)

    assert 0 <= wait_s < DAY_S
    if hours.from_s != hours.to_s:
        assert hours.opens_in_s((at_s + wait_s) % DAY_S) == 0
        assert hours.opens_in_s(hours.to_s) > 0
    if wait_s >= 1:
        assert hours.opens_in_s((at_s + wait_s - 1) % DAY_S) == 1


@given(st.builds(Hours, SECONDS, SECONDS).filter(lambda hours: hours.from_s != hours.to_s))
def test_hours_are_parsed_as_they_are_written(hours: Hours) -> None:
    assert parse_hours(str(hours)) == hours


# Examples


@pytest.mark.parametrize(
    ("text", "at", "is_open"),
    [
        ("22:00-06:00", 23, True),
        ("22:00-06:00", 0, True),
        ("22:00-06:00", 6, False),
        ("22:00-06:00", 12, False),
        ("09:00-17:00", 9, True),
        ("09:00-17:00", 17, False),
        ("00:00-12:00:30", 12, True),
    ],
)
def test_hours_may_go_over_midnight(text: str, at: int, is_open: bool) -> None:
    pause = why_paused(Limits(hours=parse_hours(text)), Condition(at_s=at * 3600))

    assert pause.reason == ("" if is_open else f"outside its hours {text}")


@pytest.mark.parametrize(
    "text", ["", "22-6", "22:00", "22:00-22:00", "25:00-06:00", "22:60-06:00", "1:00-2:00-3:00"]
)
def test_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="for example 22:00-06:00"):
        parse_hours(text)


BATTERY = Limits(battery_ratio=0.3)


@pytest.mark.parametrize(
    ("limits", "charge", "on_battery", "was_low", "reason"),
    [
        (BATTERY, 0.29, True, False, "battery at 29%, below 30%"),
        (BATTERY, 0.29, None, False, "battery at 29%, below 30%"),
        (BATTERY, 0.29, False, False, ""),
        (BATTERY, 0.3, True, False, ""),
        (BATTERY, 0.3, True, True, "battery at 30%, resuming at 35%"),
        (BATTERY, 0.3 + FULLER_RATIO, True, True, ""),
        (replace(BATTERY, mains_only=True), 0.9, True, False, "on its battery"),
        (replace(BATTERY, mains_only=True), 0.9, False, False, ""),
        (replace(BATTERY, mains_only=True), None, None, False, ""),
        (Limits(battery_ratio=1.0), 1.0, True, True, ""),
    ],
)
def test_battery_matters_while_the_device_may_run_on_it(
    limits: Limits, charge: float | None, on_battery: bool | None, was_low: bool, reason: str
) -> None:
    before = NO_PAUSE
    if was_low:
        before = why_paused(BATTERY, Condition(at_s=0, battery_ratio=0.0, on_battery=True))
    condition = Condition(at_s=0, battery_ratio=charge, on_battery=on_battery)

    assert why_paused(limits, condition, before).reason == reason


def test_pause_names_every_limit_that_is_passed() -> None:
    limits = Limits(
        hours=Hours(0, 3600), temperature_celsius=70, network="unmetered", load_ratio=0.5
    )
    hot = Condition(at_s=NOON_S, temperature_celsius=81.2, is_metered=True, others_ratio=0.72)

    pause = why_paused(limits, hot)

    assert pause.limits == {"hours", "temperature", "network", "load"}
    assert pause.reason == (
        "outside its hours 00:00-01:00; 81 degrees Celsius, above 70; on a metered network; "
        "other processes use 72% of the cores, more than 50%"
    )
    assert pause.at_least_s == DAY_S - NOON_S

    cooler = replace(hot, at_s=0, temperature_celsius=67, is_metered=False, others_ratio=0.1)
    assert why_paused(limits, cooler, pause).reason == "67 degrees Celsius, cooling down to 65"
