from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedfleet.cli.credentials import credentials_for, default_folder
from fedfleet.errors import NotFound, Unavailable
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import (
    Credentials,
    certificate_request,
    load_credentials,
    new_key,
    save_credentials,
)
from fedfleet.identity.names import Role

NOWHERE = "127.0.0.1:9"  # the discard port, on which nobody listens


def context(**environ: str) -> Any:
    """As much of a typer.Context as settings are read from."""
    return SimpleNamespace(find_root=lambda: SimpleNamespace(obj=environ))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("ca"))


def operator(authority: Authority, issued_s: float, life_s: float) -> Credentials:
    key = new_key()
    issued = authority.issue(certificate_request(key), Role.OPERATOR, "anna", issued_s, life_s)
    return Credentials(key, issued.chain, authority.root)


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CONFIG_HOME": "/xdg", "HOME": "/home/anna"}, Path("/xdg/fedfleet")),
        ({"HOME": "/home/anna"}, Path("/home/anna/.config/fedfleet")),
        ({"XDG_CONFIG_HOME": "", "HOME": "/home/anna"}, Path("/home/anna/.config/fedfleet")),
        ({"XDG_CONFIG_HOME": "rel", "HOME": "/home/anna"}, Path("/home/anna/.config/fedfleet")),
        ({}, None),
    ],
)
def test_default_folder_is_where_xdg_says(environ: dict[str, str], folder: Path | None) -> None:
    assert default_folder(environ) == folder


def test_credentials_of_the_default_folder_are_used_where_they_are(
    tmp_path: Path, authority: Authority
) -> None:
    around = context(XDG_CONFIG_HOME=str(tmp_path))
    assert credentials_for(around, NOWHERE) is None
    held = operator(authority, time.time(), 3600.0)
    save_credentials(tmp_path / "fedfleet", held)

    assert credentials_for(around, NOWHERE) == held


def test_credentials_of_a_named_folder_must_be_there(tmp_path: Path, authority: Authority) -> None:
    save_credentials(tmp_path / "fedfleet", operator(authority, time.time(), 3600.0))
    named = {"FEDFLEET_CREDENTIALS": str(tmp_path / "other"), "XDG_CONFIG_HOME": str(tmp_path)}

    with pytest.raises(NotFound, match="other"):
        credentials_for(context(**named), NOWHERE)


def test_credentials_due_for_renewal_are_used_while_nobody_renews_them(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    held = operator(authority, time.time() - 3000.0, 3600.0)
    save_credentials(tmp_path, held)

    assert credentials_for(context(FEDFLEET_CREDENTIALS=str(tmp_path)), NOWHERE) == held
    assert "certificate not renewed" in capsys.readouterr().err
    assert load_credentials(tmp_path) == held


def test_credentials_that_have_ended_are_not_used(tmp_path: Path, authority: Authority) -> None:
    save_credentials(tmp_path, operator(authority, time.time() - 7200.0, 3600.0))

    around = context(FEDFLEET_CREDENTIALS=str(tmp_path), FEDFLEET_ENROLL=NOWHERE)
    with pytest.raises(Unavailable):
        credentials_for(around, NOWHERE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_credentials_of_another_account_are_left_as_they_are(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root would write a file that the coordinator cannot read any more."""
    held = operator(authority, time.time() - 3000.0, 3600.0)
    save_credentials(tmp_path, held)
    os.chown(tmp_path / "credentials.pem", 12345, 12345)

    assert credentials_for(context(FEDFLEET_CREDENTIALS=str(tmp_path)), NOWHERE) == held

    assert "belongs to another account" in capsys.readouterr().err
    assert load_credentials(tmp_path) == held
