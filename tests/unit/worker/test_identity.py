from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedfleet.errors import FedFleetError, SettingInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import (
    Credentials,
    certificate_request,
    new_key,
    save_credentials,
)
from fedfleet.identity.names import Role
from fedfleet_worker.config import Secret, WorkerConfig
from fedfleet_worker.identity import enrol_now, held_credentials, may_go_without


def issued(folder: Path, name: str = "pi-7", role: Role = Role.WORKER) -> Credentials:
    authority, key = Authority.open(folder / "authority"), new_key()
    one = authority.issue(certificate_request(key), role, name, time.time(), 60.0)
    return Credentials(key, one.chain, authority.root)


def test_worker_without_files_has_no_credentials(tmp_path: Path) -> None:
    assert held_credentials(WorkerConfig(state_dir=tmp_path)) is None


def test_worker_holds_what_lies_in_its_state_folder_unless_tls_is_off(tmp_path: Path) -> None:
    made = issued(tmp_path)
    config = WorkerConfig(state_dir=tmp_path)
    save_credentials(config.identity_dir, made)

    assert held_credentials(config) == made
    assert held_credentials(replace(config, worker_id="pi-7")) == made
    assert held_credentials(replace(config, tls="off")) is None


@pytest.mark.parametrize(
    ("name", "role", "says"),
    [
        ("pi-8", Role.WORKER, "FEDFLEET_WORKER_ID=pi-7: .* for pi-8; unset"),
        ("pi-7", Role.OPERATOR, "operator/pi-7"),
    ],
)
def test_worker_refuses_anothers_credentials(
    name: str, role: Role, says: str, tmp_path: Path
) -> None:
    config = WorkerConfig(state_dir=tmp_path, worker_id="pi-7")
    save_credentials(config.identity_dir, issued(tmp_path, name, role))

    with pytest.raises(SettingInvalid, match=says):
        held_credentials(config)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({}, ""),
        ({"coordinator": "[::1]:7070,localhost:7071"}, ""),
        ({"tls": "on"}, "NOT_FOUND"),
        ({"coordinator": "127.0.0.1:7070,192.0.2.1:7070"}, "INSECURE_ADDRESS"),
        ({"coordinator": "192.0.2.1:7070", "insecure": True}, "INSECURE_ADDRESS"),
        ({"coordinator": "192.0.2.1:7070", "tls": "off"}, "INSECURE_ADDRESS"),
        ({"coordinator": "192.0.2.1:7070", "tls": "off", "insecure": True}, ""),
    ],
)
def test_worker_goes_without_a_certificate_on_loopback_or_where_that_is_asked_for(
    settings: dict[str, Any], code: str
) -> None:
    if not code:
        may_go_without(WorkerConfig(**settings))
        return
    with pytest.raises(FedFleetError, match=r"fedfleet-worker enroll|FEDFLEET_INSECURE") as caught:
        may_go_without(WorkerConfig(**settings))
    assert caught.value.code == code


@pytest.mark.parametrize("token", ["fft_no_such_form", "secret words"])
async def test_token_that_is_none_is_refused_before_anybody_is_asked_and_not_told(
    token: str, tmp_path: Path
) -> None:
    config = WorkerConfig(state_dir=tmp_path, worker_id="pi-7", token=Secret(token))

    with pytest.raises(FedFleetError) as caught:
        await enrol_now(config)

    assert caught.value.code == "TOKEN_INVALID"
    assert token not in caught.value.message
