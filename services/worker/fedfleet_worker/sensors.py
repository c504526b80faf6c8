"""Reads how the device is. What cannot be read is not measured, which is no error."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

from fedfleet_worker.guest import Condition, Limits

logger = logging.getLogger(__name__)

T = TypeVar("T")
# What reading a sensor may raise: the kernel, a container, or the library says that it is not
# there. No reading is worth a worker.
_NO_SENSOR = (OSError, psutil.Error, AttributeError, LookupError, RuntimeError, ValueError)

# Other processes' use of the cores is the mean over so many seconds, and unknown before these.
LOAD_WINDOW_S = 5.0
LOAD_LEAST_S = 2.0

ROUTES = Path("/proc/net/route")
ROUTES_6 = Path("/proc/net/ipv6_route")
INTERFACES = Path("/sys/class/net")
# Kinds of interface (linux/if_arp.h) that a mobile modem has: PPP, and raw IP.
_MOBILE_KINDS = ("512", "519")


class Sensors(Protocol):
    """Where conditions come from."""

    def read(self) -> Condition:
        """How the device is now; may block for some milliseconds."""


class DeviceSensors:
    """This device's, as far as the limits ask for them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._load = LoadMeter()

    def read(self) -> Condition:
        """How the device is now."""
        limits, now = self._limits, time.localtime()
        charge, on_battery = None, None
        if limits.battery_ratio is not None or limits.mains_only:
            charge, on_battery = measured(battery) or (None, None)
        return Condition(
            at_s=now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec,
            temperature_celsius=(
                None if limits.temperature_celsius is None else measured(temperature)
            ),
            battery_ratio=charge,
            on_battery=on_battery,
            is_metered=measured(is_metered) if limits.network == "unmetered" else None,
            others_ratio=None if limits.load_ratio is None else measured(self._load.read),
        )


def measured(read: Callable[[], T]) -> T | None:
    """What a sensor says; None, which is told as not measured, when it cannot be read."""
    try:
        return read()
    except _NO_SENSOR as error:
        logger.debug("sensor_unreadable", extra={"reason": repr(error)})
        return None


def temperature() -> float | None:
    """Degrees Celsius of the hottest sensor."""
    if not hasattr(psutil, "sensors_temperatures"):  # macOS and Windows have none
        return None
    groups = psutil.sensors_temperatures().values()
    readings = [float(reading.current) for group in groups for reading in group]
    return max(readings, default=None)


def battery() -> tuple[float, bool | None] | None:
    """Charge, in [0, 1], and whether the device runs on it (None: nobody says); None without."""
    if not hasattr(psutil, "sensors_battery"):
        return None
    state = psutil.sensors_battery()
    if state is None:
        return None
    on_battery = None if state.power_plugged is None else not state.power_plugged
    return min(1.0, max(0.0, state.percent / 100)), on_battery


def is_metered(
    routes: Path = ROUTES, interfaces: Path = INTERFACES, routes_6: Path = ROUTES_6
) -> bool | None:
    """Whether the default route of IPv4 or of IPv6 goes over a mobile modem.

    Linux keeps no other mark of a metered network in a file: of cable, Wi-Fi and tunnels it is
    unknown (None), a telephone's hotspot among them.
    """
    used = (_default_4(routes), _default_6(routes_6))
    return any(_is_modem(interfaces / name) for name in used if name) or None


def _default_4(routes: Path) -> str:
    """The interface of the default route; empty without one."""
    found = []
    for line in routes.read_text().splitlines()[1:]:
        name, destination, _, _, _, _, metric, mask, *_ = line.split()
        if int(destination, 16) == int(mask, 16) == 0:
            found.append((int(metric), name))
    return min(found, default=(0, ""))[1]


def _default_6(routes: Path) -> str:
    """As of IPv4; a system without IPv6 has no such file."""
    found = []
    for line in routes.read_text().splitlines() if routes.exists() else ():
        destination, length, _, _, _, metric, _, _, _, name = line.split()
        # The loopback's refuse what has no route.
        if int(destination, 16) == int(length, 16) == 0 and name != "lo":
            found.append((int(metric, 16), name))
    return min(found, default=(0, ""))[1]


def _is_modem(interface: Path) -> bool:
    is_wwan = "DEVTYPE=wwan" in (interface / "uevent").read_text().split()
    return is_wwan or (interface / "type").read_text().strip() in _MOBILE_KINDS


class LoadMeter:
    """Measures how much of the cores is used by others than this process and its children."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._process = psutil.Process()
        self._samples: deque[tuple[float, float, float]] = deque()

    def read(self) -> float | None:
        """Share of all cores, in [0, 1], since LOAD_WINDOW_S ago; None at first."""
        now_s, (others_s, all_s) = self._clock(), self._times_s()
        self._samples.append((now_s, others_s, all_s))
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= LOAD_WINDOW_S:
            self._samples.popleft()
        then_s, others_then_s, all_then_s = self._samples[0]
        if now_s - then_s < LOAD_LEAST_S or all_s <= all_then_s:
            return None
        return min(1.0, max(0.0, (others_s - others_then_s) / (all_s - all_then_s)))

    def _times_s(self) -> tuple[float, float]:
        """Seconds of all cores since the system began: spent for others, and altogether."""
        times, own_s = psutil.cpu_times()._asdict(), self._own_s()
        # Guests' time is in user's already; what is stolen went to no process of this system.
        total_s = sum(value for name, value in times.items() if not name.startswith("guest"))
        idle_s = sum(times.get(name, 0.0) for name in ("idle", "iowait", "steal"))
        return total_s - idle_s - own_s, total_s

    def _own_s(self) -> float:
        """Of this process and its children, with those that have ended."""
        while True:
            before = self._process.cpu_times()
            alive_s = sum(_spent_s(child) for child in self._process.children())
            after = self._process.cpu_times()
            if after[2:4] == before[2:4]:  # else one ended meanwhile, and would count twice or not
                return alive_s + float(sum(after[:4]))


def _spent_s(process: psutil.Process) -> float:
    """Seconds of a process and of its children that have ended; 0 when it is gone."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.Error:
        return 0.0
