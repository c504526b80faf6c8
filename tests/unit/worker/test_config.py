from __future__ import annotations

import pytest

from fedfleet.env import read
from fedfleet.errors import SettingInvalid
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.guest import Hours, Limits


def test_worker_has_no_limits_unless_they_are_set() -> None:
    assert not read(WorkerConfig, {}).limits.are_set


def test_worker_reads_its_limits() -> None:
    config = read(
        WorkerConfig,
        {
            "FEDFLEET_WORKER_HOURS": "22:00-06:30",
            "FEDFLEET_WORKER_TEMPERATURE_CELSIUS": "75",
            "FEDFLEET_WORKER_BATTERY_RATIO": "0.4",
            "FEDFLEET_WORKER_MAINS_ONLY": "1",
            "FEDFLEET_WORKER_NETWORK": "unmetered",
            "FEDFLEET_WORKER_LOAD_RATIO": "0.5",
        },
    )

    assert config.limits == Limits(
        hours=Hours(22 * 3600, 6 * 3600 + 1800),
        temperature_celsius=75.0,
        battery_ratio=0.4,
        mains_only=True,
        network="unmetered",
        load_ratio=0.5,
    )


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("WORKER_HOURS", "night", "for example 22:00-06:00"),
        ("WORKER_BATTERY_RATIO", "40", "at most 1"),
        ("WORKER_LOAD_RATIO", "0", "above 0"),
        ("WORKER_NETWORK", "wifi", "any or unmetered"),
        ("WORKER_NICE", "20", "from 0 to 19"),
        ("WORKER_MEMORY_MB", "-1", "0 or more"),
        ("WORKER_MARGIN_S", "0", "above 0"),
    ],
)
def test_worker_refuses_limits_that_are_none(name: str, text: str, allowed: str) -> None:
    with pytest.raises(SettingInvalid, match=allowed) as caught:
        read(WorkerConfig, {f"FEDFLEET_{name}": text})

    assert f"FEDFLEET_{name}" in caught.value.message
