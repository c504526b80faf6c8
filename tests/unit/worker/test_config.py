from __future__ import annotations

from pathlib import Path

import pytest

from fedfleet.env import read
from fedfleet.errors import SettingInvalid
from fedfleet_worker.config import Secret, WorkerConfig
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
        ("TLS", "maybe", "auto, on or off"),
    ],
)
def test_worker_refuses_limits_that_are_none(name: str, text: str, allowed: str) -> None:
    with pytest.raises(SettingInvalid, match=allowed) as caught:
        read(WorkerConfig, {f"FEDFLEET_{name}": text})

    assert f"FEDFLEET_{name}" in caught.value.message


def test_worker_reads_where_coordinators_are_and_enrols_at_their_hosts() -> None:
    config = read(WorkerConfig, {"FEDFLEET_COORDINATOR": "a:7070, b:7070,a:7071,[::1]:7070"})

    assert config.addresses == ("a:7070", "b:7070", "a:7071", "[::1]:7070")
    assert config.enrol_addresses == ("a:7073", "b:7073", "[::1]:7073")
    named = read(WorkerConfig, {"FEDFLEET_ENROLL": "c:1,d:2"})
    assert named.enrol_addresses == ("c:1", "d:2")


@pytest.mark.parametrize("text", ["a", "a:7070,b", ":7070", "a:0", "::1:7070", ","])
def test_worker_refuses_addresses_that_are_none(text: str) -> None:
    with pytest.raises(SettingInvalid, match="HOST:PORT"):
        _ = WorkerConfig(coordinator=text).addresses


def test_worker_never_shows_its_token(tmp_path: Path) -> None:
    config = read(WorkerConfig, {"FEDFLEET_TOKEN": "fft_secret"})

    assert config.has_token
    assert config.read_token() == "fft_secret"
    assert "fft_secret" not in repr(config)
    assert "fft_secret" not in f"{config.token}"


def test_worker_reads_its_token_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    config = WorkerConfig(token_file=path)
    with pytest.raises(SettingInvalid, match=r"FEDFLEET_TOKEN_FILE=.*token: No such file"):
        config.read_token()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingInvalid, match="it holds no token"):
        config.read_token()
    path.write_text("  fft_secret\n")

    assert config.read_token() == "fft_secret"
    assert WorkerConfig(token=Secret("given"), token_file=path).read_token() == "given"
    with pytest.raises(SettingInvalid, match="there is no token"):
        WorkerConfig().read_token()


def test_worker_takes_all_files_of_another_authority_or_none() -> None:
    files = {"FEDFLEET_WORKER_CERTIFICATE": "c", "FEDFLEET_WORKER_KEY": "k"}
    with pytest.raises(SettingInvalid, match="set all three"):
        read(WorkerConfig, files)

    config = read(WorkerConfig, {**files, "FEDFLEET_SERVER_ROOT": "r"})

    assert config.external == (Path("c"), Path("k"), Path("r"))
    assert read(WorkerConfig, {}).external is None
