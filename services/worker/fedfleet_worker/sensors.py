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


def is_metered(routes: Path = ROUTES, interfaces: Path = INTERFACES) -> bool | None:
    """Whether the default route goes over a mobile modem.

    Linux keeps no other mark of a metered network in a file: of cable, Wi-Fi and tunnels it is
    unknown (None), a telephone's hotspot among them.
    """
    found = []
    for line in routes.read_text().splitlines()[1:]:
        name, destination, _, _, _, _, metric, mask, *_ = line.split()
        if int(destination, 16) == int(mask, 16) == 0:
            found.append((int(metric), name))
    if not found:
        return None
    folder = interfaces / min(found)[1]
    is_modem = "DEVTYPE=wwan" in (folder / "uevent").read_text().split()
    return is_modem or (folder / "type").read_text().strip() in _MOBILE_KINDS or None


class LoadMeter:
    """Measures how much of the cores is used by others than this process."""

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
        times, own = psutil.cpu_times()._asdict(), self._process.cpu_times()
        # Guests' time is in user's already; what is stolen went to no process of this system.
        total_s = sum(value for name, value in times.items() if not name.startswith("guest"))
        idle_s = sum(times.get(name, 0.0) for name in ("idle", "iowait", "steal"))
        return total_s - idle_s - own.user - own.system, total_s
