from __future__ import annotations

import os

import psutil
import pytest
import torch

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
