from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from unit.cli.conftest import Cli

from fedfleet.identity.authority import Authority


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority") / "ca"
    Authority.open(folder)
    return folder


def test_show_lists_the_certificates(cli: Cli, folder: Path) -> None:
    result = cli("ca", "show", "--json", environ={"FEDFLEET_CA_DIR": str(folder)})

    rows = result.document["certificates"]
    assert [row["file"] for row in rows] == ["root.pem", "issuing.pem", "enrolment.pem"]
    assert result.document["pin"] == Authority.open(folder).pin
    table = cli("ca", "show", "--ca-dir", str(folder)).out
    for row in rows:
        assert row["sha256"] in table
        assert row["subject"] in table
    assert result.document["pin"] in table


def test_show_makes_no_authority(cli: Cli, tmp_path: Path) -> None:
    for command in (["show"], ["server", "--name", "localhost", "--out", str(tmp_path / "out")]):
        result = cli("ca", *command, "--ca-dir", str(tmp_path / "ca"))

        assert result.status == 1
        assert result.err.startswith("fedfleet: NOT_FOUND: there is no certificate authority")
    assert list(tmp_path.iterdir()) == []


def test_server_writes_what_a_web_server_takes(cli: Cli, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "rest"
    argv = ["--name", "localhost", "--name", "127.0.0.1", "--days", "2", "--out", str(out)]

    result = cli("ca", "server", *argv, "--ca-dir", str(folder), "--json")

    document = result.document
    assert document["names"] == ["localhost", "127.0.0.1"]
    assert 0 <= document["ends_at_s"] - document["starts_at_s"] - 3 * 86400 <= 2  # one of them back
    assert (out / "root.pem").read_bytes() == (folder / "root.pem").read_bytes()
    assert Path(document["file"]).stat().st_mode & 0o777 == 0o600
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(document["file"], document["file"])
    again = cli("ca", "server", *argv, "--ca-dir", str(folder))
    assert again.status == 0
    assert str(out / "credentials.pem") in again.out


@pytest.mark.parametrize("name", ["*.example.org", "coordinator.fedfleet.internal", "a b"])
def test_server_refuses_names_that_are_none(
    cli: Cli, folder: Path, tmp_path: Path, name: str
) -> None:
    result = cli(
        "ca", "server", "--name", name, "--out", str(tmp_path / "out"), "--ca-dir", str(folder)
    )

    assert result.status == 1
    assert result.err.startswith("fedfleet: INVALID_INPUT: name ")
    assert list(tmp_path.iterdir()) == []
