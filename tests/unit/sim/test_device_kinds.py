"""Kinds bring their figures into a profile, which may say otherwise."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from fedfleet.cli.recipes import shipped
from fedfleet.errors import SettingInvalid
from fedfleet.sim.device_kinds import DEVICE_KINDS
from fedfleet.sim.devices import DeviceProfile, parse_devices

PI = '[[profiles]]\nkind = "raspberry-pi-4"\nshare = 1.0\n'


def test_kind_brings_speed_memory_and_link() -> None:
    (found,) = parse_devices(PI)

    kind = DEVICE_KINDS["raspberry-pi-4"]
    assert found == DeviceProfile(
        name="raspberry-pi-4",
        share=1.0,
        flops_per_s=kind.flops_per_s,
        memory_bytes=kind.memory_bytes,
        down_bytes_per_s=kind.down_bytes_per_s,
        up_bytes_per_s=kind.up_bytes_per_s,
    )


def test_profile_says_otherwise_than_its_kind() -> None:
    (found,) = parse_devices(PI + 'name = "behind-a-modem"\nup_bytes_per_s = 1e5\n')
    (measured,) = parse_devices(PI + "samples_per_s = 40.0\n")

    assert (found.name, found.up_bytes_per_s) == ("behind-a-modem", 1e5)
    assert (measured.samples_per_s, measured.flops_per_s) == (40.0, None)


@pytest.mark.parametrize("kind", ['"raspberry-pi-9"', "3", '"toaster"'])
def test_unknown_kind_is_refused_with_those_there_are(kind: str) -> None:
    with pytest.raises(SettingInvalid, match=r"profiles\[0\].kind = .*allowed: jetson-nano, "):
        parse_devices(PI.replace('"raspberry-pi-4"', kind))


def test_kinds_are_ordered_as_the_devices_are() -> None:
    slowest_first = sorted(DEVICE_KINDS, key=lambda name: DEVICE_KINDS[name].flops_per_s)

    assert slowest_first == [
        "raspberry-pi-3",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "jetson-nano",
        "laptop",
        "jetson-orin-nano",
        "server",
    ]


@pytest.mark.parametrize("name", sorted(shipped("devices")))
def test_shipped_fleet_is_valid(name: str) -> None:
    assert parse_devices(shipped("devices")[name].read_text())


def test_every_kind_ships_as_a_fleet() -> None:
    fleets = [parse_devices(path.read_text()) for path in shipped("devices").values()]

    assert {profile.name for fleet in fleets for profile in fleet} == set(DEVICE_KINDS)
    assert not shipped("devices").keys() & shipped().keys()


def test_page_has_the_figures_of_the_code() -> None:
    page = (Path(__file__).parents[3] / "docs" / "devices.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|((?: [0-9.e]+ \|){4})$", page, re.MULTILINE)

    assert {name for name, _ in rows} == set(DEVICE_KINDS)
    for name, cells in rows:
        told = [float(cell) for cell in cells.split("|")[:4]]
        assert told == pytest.approx(list(asdict(DEVICE_KINDS[name]).values()), rel=5e-3), name
