from __future__ import annotations

from pathlib import Path

import pytest

from fedfleet.env import read
from fedfleet.errors import SettingInvalid
from fedfleet_coordinator.config import CoordinatorConfig


def config(**environ: str) -> CoordinatorConfig:
    return read(CoordinatorConfig, {f"FEDFLEET_{name}": text for name, text in environ.items()})


@pytest.mark.parametrize(
    ("environ", "is_on"),
    [
        ({}, False),
        ({"TLS": "on"}, True),
        ({"HOST": "0.0.0.0"}, True),
        ({"HOST": "0.0.0.0", "INSECURE": "1"}, True),
        ({"HOST": "0.0.0.0", "TLS": "off"}, False),
    ],
)
def test_tls_is_on_beyond_loopback_unless_it_is_named_off(
    environ: dict[str, str], is_on: bool
) -> None:
    assert config(**environ).uses_tls is is_on


def test_authority_lies_in_the_folder_of_an_embedded_store() -> None:
    assert config(STORE="sqlite:/var/lib/fleet").authority_folder == Path("/var/lib/fleet/ca")
    assert config(STORE="sqlite:x", CA_DIR="/etc/fleet").authority_folder == Path("/etc/fleet")
    assert config(STORE="redis://redis:6379/0").authority_folder is None


def test_files_of_another_authority_come_together() -> None:
    files = {"SERVER_CERTIFICATE": "a", "SERVER_KEY": "b", "CLIENT_ROOT": "c"}
    assert config(**files).server_key == Path("b")
    for name in files:
        with pytest.raises(SettingInvalid, match="FEDFLEET_CLIENT_ROOT"):
            config(**{key: text for key, text in files.items() if key != name})
