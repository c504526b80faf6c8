from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from fedfleet_worker import sensors
from fedfleet_worker.guest import Hours, Limits
from fedfleet_worker.sensors import DeviceSensors, LoadMeter, battery, is_metered, measured

HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
ALL = Limits(
    hours=Hours(0, 1),
    temperature_celsius=90,
    battery_ratio=0.3,
    network="unmetered",
    load_ratio=0.5,
)
Charge = namedtuple("Charge", "percent secsleft power_plugged")


def network(
    folder: Path, routes: str, kind: int = 1, device: str = "", routes_6: str = ""
) -> tuple[Path, Path, Path]:
    """Routing tables as the kernel writes them, and one interface."""
    (folder / "route").write_text(HEAD + routes)
    (folder / "ipv6_route").write_text(routes_6)
    (folder / "net" / "if0").mkdir(parents=True)
    (folder / "net" / "if0" / "type").write_text(f"{kind}\n")
    (folder / "net" / "if0" / "uevent").write_text(f"{device}INTERFACE=if0\nIFINDEX=2\n")
    return folder / "route", folder / "net", folder / "ipv6_route"


DEFAULT = "if0\t00000000\t010200C0\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n"
LOCAL = "if0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
OTHER = "if1\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"


NONE_6, ANY_6 = "0" * 32, "fe80" + "0" * 27 + "1"
DEFAULT_6 = f"{NONE_6} 00 {NONE_6} 00 {ANY_6} 00000400 00000001 00000000 00000003     if0\n"
# What has no route, and the interface's own addresses.
REFUSED_6 = f"{NONE_6} 00 {NONE_6} 00 {NONE_6} ffffffff 00000001 00000000 00200200       lo\n"
LOCAL_6 = f"{ANY_6} 40 {NONE_6} 00 {NONE_6} 00000100 00000001 00000000 00000001     if0\n"


@pytest.mark.parametrize(
    ("routes_6", "device", "expected"),
    [
        (REFUSED_6 + LOCAL_6 + DEFAULT_6, "DEVTYPE=wwan\n", True),
        (REFUSED_6 + LOCAL_6 + DEFAULT_6, "", None),
        (REFUSED_6 + LOCAL_6, "DEVTYPE=wwan\n", None),
    ],
)
def test_network_is_metered_where_only_ipv6_has_a_route_over_a_modem(
    routes_6: str, device: str, expected: bool | None, tmp_path: Path
) -> None:
    files = network(tmp_path, LOCAL, 1, device, routes_6)

    assert is_metered(*files) is expected


def test_network_of_a_system_without_ipv6_is_that_of_ipv4(tmp_path: Path) -> None:
    files = network(tmp_path, DEFAULT.format(metric=0), 1, "DEVTYPE=wwan\n")
    files[2].unlink()

    assert is_metered(*files) is True


@pytest.mark.parametrize(
    ("routes", "kind", "device", "expected"),
    [
        (DEFAULT.format(metric=0), 1, "DEVTYPE=wwan\n", True),
        (DEFAULT.format(metric=700) + OTHER.replace("600", "800"), 519, "", True),
        (LOCAL + DEFAULT.format(metric=0), 512, "", True),
        (DEFAULT.format(metric=0), 1, "DEVTYPE=wlan\n", None),
        (DEFAULT.format(metric=0), 1, "", None),
        (LOCAL, 1, "DEVTYPE=wwan\n", None),
        ("", 1, "DEVTYPE=wwan\n", None),
    ],
)
def test_network_is_metered_where_the_default_route_is_a_modems(
    routes: str, kind: int, device: str, expected: bool | None, tmp_path: Path
) -> None:
    assert is_metered(*network(tmp_path, routes, kind, device)) is expected


def test_network_of_an_interface_that_has_gone_is_not_measured(tmp_path: Path) -> None:
    files = network(tmp_path, OTHER)

    assert measured(lambda: is_metered(*files)) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a routing table in a file")
def test_network_of_this_machine_can_be_read() -> None:
    assert is_metered() in (None, True)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (Charge(42.0, 100, False), (0.42, True)),
        (Charge(100.3, 100, True), (1.0, False)),
        (Charge(42.0, 100, None), (0.42, None)),
        (None, None),
    ],
)
def test_battery_is_a_ratio_and_where_the_power_is_from(
    state: Charge | None, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: state, raising=False)

    assert battery() == expected


def test_sensors_read_what_the_limits_ask_for_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    charge = Charge(50, 9, True)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: charge, raising=False)

    nothing, everything = DeviceSensors(Limits()).read(), DeviceSensors(ALL).read()

    assert (nothing.battery_ratio, nothing.on_battery) == (None, None)
    assert (everything.battery_ratio, everything.on_battery) == (0.5, False)
    now = time.localtime()
    assert 0 <= now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec - everything.at_s <= 5


def test_sensors_of_a_machine_without_any_measure_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreadable(*_: object) -> None:
        raise psutil.AccessDenied

    for name in ("sensors_battery", "sensors_temperatures", "cpu_times"):
        monkeypatch.setattr(psutil, name, unreadable, raising=False)
    monkeypatch.setattr(sensors, "ROUTES", tmp_path / "none")

    condition = DeviceSensors(ALL).read()

    assert condition.temperature_celsius is None
    assert condition.battery_ratio is None
    assert condition.others_ratio is None


def spin(until_s: float) -> None:
    while time.process_time() < until_s:
        pass


def test_load_is_what_others_use_and_not_this_process() -> None:
    """Both use a core for as long; only the other one's counts."""
    cores = os.cpu_count() or 1
    now_s = 0.0
    meter = LoadMeter(clock=lambda: now_s)
    assert meter.read() is None

    burn = "import time\nwhile time.process_time() < 0.6: pass"
    before = psutil.cpu_times()
    began_s = time.process_time()
    # Its parent ends at once, and it keeps the pipe that is read to its end.
    start = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}])"
    subprocess.run([sys.executable, "-c", start], check=True, capture_output=True)
    spin(began_s + 0.6)
    own_s = time.process_time() - began_s
    now_s = 3.0
    ratio = meter.read()
    after = psutil.cpu_times()

    all_s = sum(after) - sum(before)
    busy_s = all_s - (after.idle - before.idle)
    assert ratio is not None
    # The rest of the machine may have worked too, but not more than it was busy, less our part.
    assert 0.5 / all_s <= ratio <= (busy_s - own_s + 0.1) / all_s
    assert all_s <= cores * 60


BURN = """
import time
while time.process_time() < 0.6: pass
print("burnt", flush=True)
input()
"""


@pytest.mark.parametrize("ends", [False, True], ids=["lives", "has ended"])
def test_load_is_not_what_a_child_of_this_process_uses(ends: bool) -> None:
    """As the process that measures the levels."""
    now_s = 0.0
    meter = LoadMeter(clock=lambda: now_s)
    assert meter.read() is None

    before = psutil.cpu_times()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", BURN], text=True, **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "burnt\n"
        if ends:
            child.communicate("\n")
        now_s = 3.0
        ratio = meter.read()
        after = psutil.cpu_times()
        if not ends:
            child.communicate("\n")

    all_s = sum(after) - sum(before)
    busy_s = all_s - (after.idle - before.idle)
    assert ratio is not None
    assert ratio <= (busy_s - 0.6 + 0.1) / all_s


def test_load_is_the_mean_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    Times = namedtuple("Times", "user nice system idle iowait steal guest")
    now_s, busy_s = 0.0, 0.0
    monkeypatch.setattr(
        psutil, "cpu_times", lambda: Times(busy_s, 0, 0, 2 * now_s - busy_s - 0.5, 0.25, 0.25, 9)
    )
    own = namedtuple("Own", "user system children_user children_system")(0.0, 0.0, 0.0, 0.0)
    monkeypatch.setattr(psutil.Process, "cpu_times", lambda _: own)
    meter = LoadMeter(clock=lambda: now_s)
    ratios = []
    for second in range(20):
        ratios.append(meter.read())
        now_s += 1.0
        busy_s += 2.0 if 8 <= second < 14 else 0.0  # both cores

    assert ratios[:3] == [None, None, 0.0]
    assert ratios[9] == pytest.approx(0.2)
    assert ratios[14] == pytest.approx(1.0)
    assert ratios[19] == pytest.approx(0.0)
