from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
import torch

from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_worker import device
from fedfleet_worker.device import heartbeat, profile


def test_heartbeat_tells_what_this_machine_measures() -> None:
    beat = heartbeat()

    assert beat.memory_used_bytes > 1 << 20
    assert beat.sent_at_s > 1.7e9


@pytest.mark.parametrize(
    "error",
    [OSError("no such sensor"), psutil.AccessDenied(), NotImplementedError(), KeyError("temp1")],
)
def test_sensor_that_cannot_be_read_is_not_measured(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "getloadavg", unreadable)
    monkeypatch.setattr(psutil, "virtual_memory", unreadable)
    monkeypatch.setattr(psutil.Process, "memory_info", unreadable)
    monkeypatch.setattr(psutil, "sensors_temperatures", unreadable, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", unreadable)

    beat, device = heartbeat(), profile()

    assert beat.sent_at_s > 0
    assert not beat.HasField("temperature_celsius")
    assert (beat.memory_used_bytes, beat.load_average) == (0, 0.0)
    assert (device.memory_bytes, device.accelerator) == (0, "")
    assert device.machine


def test_sensors_that_the_system_does_not_have_are_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "getloadavg")
    monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)

    beat = heartbeat()

    assert beat.load_average == 0.0
    assert not beat.HasField("temperature_celsius")


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_accelerator")
def test_profile_has_no_more_memory_than_the_owner_allows() -> None:
    assert profile(1 << 20).memory_bytes == 1 << 20
    assert profile(1 << 62).memory_bytes == profile().memory_bytes


@pytest.mark.usefixtures("no_accelerator")
def test_profile_has_no_more_memory_than_its_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "v1").write_text("9223372036854771712\n")
    (tmp_path / "v2").write_text("1048576\n")
    (tmp_path / "none").write_text("max\n")
    names = ("v1", "none", "missing")

    monkeypatch.setattr(device, "_GROUP_LIMITS", [tmp_path / name for name in names])
    assert profile().memory_bytes == psutil.virtual_memory().total
    monkeypatch.setattr(device, "_GROUP_LIMITS", [tmp_path / name for name in (*names, "v2")])
    assert profile().memory_bytes == 1 << 20


def test_profile_has_the_memory_of_the_accelerator_that_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A probe's peaks are of that memory, and the coordinator compares the two."""
    card = namedtuple("Card", "total_memory")(24 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card 24")
    monkeypatch.setattr(torch.cuda, "get_device_properties", {1: card}.__getitem__)

    made = profile(1 << 20)

    assert (made.accelerator, made.memory_bytes) == ("Card 24", 24 << 30)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_profile_of_a_machine_with_an_accelerator_has_its_memory() -> None:
    free, total = torch.cuda.mem_get_info()

    assert free < profile().memory_bytes <= 1.05 * total
    assert profile().accelerator == torch.cuda.get_device_name()


def test_profile_tells_what_a_probe_measured() -> None:
    levels = [pb.LevelSpeed(level="a", samples_per_s=3.0), pb.LevelSpeed(level="b")]

    made = profile(levels=levels)

    assert list(made.levels) == levels
    assert made.samples_per_s == 3.0
