"""When a worker may train: the owner's limits against how the device is. Reads nothing itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Network = Literal["any", "unmetered"]
Limit = Literal["hours", "temperature", "battery", "network", "load"]

DAY_S = 86400
# How far a reading must come back before the pause ends, so that it does not come and go.
COOLER_CELSIUS = 5.0
FULLER_RATIO = 0.05
CALMER = 0.8

_HOURS = re.compile(r"(\d\d):(\d\d)(?::(\d\d))?")


@dataclass(frozen=True)
class Hours:
    """A part of each day by the device's local clock; it may go over midnight.

    Args:
        from_s, to_s: seconds since midnight, in [0, DAY_S); the end is not in it.
    """

    from_s: int
    to_s: int

    def opens_in_s(self, at_s: float) -> float:
        """Seconds until it begins; 0 within it.

        Args:
            at_s: seconds since midnight.
        """
        length_s = (self.to_s - self.from_s) % DAY_S
        if (at_s - self.from_s) % DAY_S < length_s:
            return 0.0
        return (self.from_s - at_s) % DAY_S

    def __str__(self) -> str:
        return f"{_clock(self.from_s)}-{_clock(self.to_s)}"


def parse_hours(text: str) -> Hours:
    """Parse HH:MM-HH:MM, or HH:MM:SS on either side."""
    sides = [_HOURS.fullmatch(side.strip()) for side in text.split("-")]
    numbers = [[int(part or 0) for part in side.groups()] for side in sides if side]
    times_s = [h * 3600 + m * 60 + s for h, m, s in numbers if h < 24 and m < 60 and s < 60]
    if len(sides) != 2 or len(times_s) != 2 or times_s[0] == times_s[1]:
        raise ValueError("must be two different times of the day, for example 22:00-06:00")
    return Hours(*times_s)


def _clock(at_s: int) -> str:
    minutes, seconds = divmod(at_s, 60)
    text = f"{minutes // 60:02d}:{minutes % 60:02d}"
    return f"{text}:{seconds:02d}" if seconds else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the device's owner allows. None, or the default, allows all.

    Args:
        hours: when training is allowed.
        temperature_celsius: above it, training rests until it is COOLER_CELSIUS cooler.
        battery_ratio: below this charge, training rests while the device runs on its battery.
        mains_only: training rests whenever the device runs on its battery.
        network: ``unmetered`` lets a worker rest on a network that is known to cost by the byte.
        load_ratio: share of all cores that other processes may use before training rests.
    """

    hours: Hours | None = None
    temperature_celsius: float | None = None
    battery_ratio: float | None = None
    mains_only: bool = False
    network: Network = "any"
    load_ratio: float | None = None

    @property
    def are_set(self) -> bool:
        """Whether there is anything to watch."""
        return self != Limits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """How the device is; None is not measured, which never is a reason to rest.

    Args:
        at_s: seconds since midnight by the local clock.
        battery_ratio: charge, in [0, 1].
        others_ratio: share of all cores that other processes used lately, in [0, 1].
    """

    at_s: float
    temperature_celsius: float | None = None
    battery_ratio: float | None = None
    on_battery: bool | None = None
    is_metered: bool | None = None
    others_ratio: float | None = None


@dataclass(frozen=True)
class Pause:
    """Whether a worker rests, and why.

    Args:
        limits: that are passed; none when it may train.
        reason: for people, in one line; empty when it may train.
        at_least_s: seconds for which it surely lasts.
    """

    limits: frozenset[Limit] = frozenset()
    reason: str = ""
    at_least_s: float = 0.0


NO_PAUSE = Pause()


def why_paused(limits: Limits, condition: Condition, before: Pause = NO_PAUSE) -> Pause:
    """Say whether to rest now.

    Args:
        before: what was said last; a limit that was passed then is passed until its reading has
            come back some way.
    """
    found: dict[Limit, str] = {
        "hours": _hours(limits, condition),
        "temperature": _temperature(limits, condition, "temperature" in before.limits),
        "battery": _battery(limits, condition, "battery" in before.limits),
        "network": _network(limits, condition),
        "load": _load(limits, condition, "load" in before.limits),
    }
    passed = {name: text for name, text in found.items() if text}
    if not passed:
        return NO_PAUSE
    opens_in_s = limits.hours.opens_in_s(condition.at_s) if limits.hours else 0.0
    return Pause(frozenset(passed), "; ".join(passed.values()), opens_in_s)


def _hours(limits: Limits, condition: Condition) -> str:
    if limits.hours is None or limits.hours.opens_in_s(condition.at_s) == 0:
        return ""
    return f"outside its hours {limits.hours}"


def _temperature(limits: Limits, condition: Condition, was_hot: bool) -> str:
    most, now = limits.temperature_celsius, condition.temperature_celsius
    if most is None or now is None:
        return ""
    cool = most - COOLER_CELSIUS
    if now > most:
        return f"{now:.0f} degrees Celsius, above {most:g}"
    return f"{now:.0f} degrees Celsius, cooling down to {cool:g}" if was_hot and now > cool else ""


def _battery(limits: Limits, condition: Condition, was_low: bool) -> str:
    # Where nobody says what the device runs on, a charge that is measured may be used up.
    on_battery = condition.on_battery
    if on_battery is False:
        return ""
    if limits.mains_only and on_battery:
        return "on its battery"
    least, now = limits.battery_ratio, condition.battery_ratio
    if least is None or now is None:
        return ""
    full_enough = min(1.0, least + FULLER_RATIO)
    if now < least:
        return f"battery at {now:.0%}, below {least:.0%}"
    if was_low and now < full_enough:
        return f"battery at {now:.0%}, resuming at {full_enough:.0%}"
    return ""


def _network(limits: Limits, condition: Condition) -> str:
    return "on a metered network" if limits.network == "unmetered" and condition.is_metered else ""


def _load(limits: Limits, condition: Condition, was_loaded: bool) -> str:
    most, now = limits.load_ratio, condition.others_ratio
    if most is None or now is None:
        return ""
    used = f"other processes use {now:.0%} of the cores"
    if now > most:
        return f"{used}, more than {most:.0%}"
    return f"{used}, resuming at {most * CALMER:.0%}" if was_loaded and now > most * CALMER else ""
