"""The commands about who may come in, against a coordinator with mutual TLS."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from certificates import issued
from harness import Running, running_coordinator

from fedfleet.cli.main import main
from fedfleet.identity.credentials import FILE, load_credentials, save_credentials
from fedfleet.identity.names import Role
from fedfleet.store.access import CertificateRecord


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert (self.status, self.err) == (0, "")
        return json.loads(self.out)


class Shell:
    """Runs commands as one user: with an environment and a home folder of their own."""

    def __init__(self, running: Running, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.environ = {
            "FEDFLEET_COORDINATOR": running.address,
            "FEDFLEET_ENROLL": running.enrol_address,
            "HOME": str(home),
        }
        self._capsys = capsys

    async def __call__(self, *argv: str, **environ: str) -> Result:
        # The coordinator is served by this thread's loop.
        status = await asyncio.to_thread(main, argv, {**self.environ, **environ})
        return Result(status, *self._capsys.readouterr())


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_coordinator(tmp_path / "store", tls="on") as one:
        yield one


@pytest.fixture
def local(running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Who runs the coordinator."""
    shell = Shell(running, tmp_path / "home", capsys)
    shell.environ["FEDFLEET_CREDENTIALS"] = str(tmp_path / "store" / "ca" / "operator")
    return shell


@pytest.fixture
def other(running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Somebody with nothing."""
    return Shell(running, tmp_path / "elsewhere", capsys)


async def test_operator_enrols_and_works_until_revoked(local: Shell, other: Shell) -> None:
    made = (
        await local("token", "create", "--operator", "anna", "--valid", "2h", "--json")
    ).document
    listed = (await local("token", "list", "--json")).document["tokens"]
    enrolled = await other("enroll", "--name", "anna", FEDFLEET_TOKEN=made["token"])
    worked = await other("workers")
    created = await other("token", "create", "--worker", "pi-7")
    revoked = (await local("operator", "revoke", "anna", "--yes", "--json")).document
    refused = await other("workers")

    assert [(one["role"], one["name"]) for one in listed] == [("operator", "anna")]
    assert made["token"] not in json.dumps(listed)
    assert 7000 < listed[0]["expires_at_s"] - time.time() <= 7200
    folder = Path(other.environ["HOME"]) / ".config" / "fedfleet"
    assert enrolled.status == 0
    assert f"operator/anna: credentials in {folder}" in enrolled.out
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert (worked.status, worked.out) == (0, "No worker has connected yet.\n")
    assert created.status == 0
    assert revoked == {"role": "operator", "name": "anna", "certificates": 1}
    assert refused.status == 1
    assert refused.err.startswith("fedfleet: UNAUTHENTICATED: ")
    assert refused.err.count("\n") == 1


async def test_token_is_good_once_and_for_one_name(local: Shell, other: Shell) -> None:
    made = (await local("token", "create", "--observer", "otto", "--json")).document

    wrong = await other("enroll", "--name", "anna", "--token", made["token"])
    right = await other("enroll", "--name", "otto", "--token", made["token"])
    there = await other("enroll", "--name", "otto", "--token", made["token"])
    again = await other("enroll", "--name", "otto", "--token", made["token"], "--replace")

    assert wrong.err.startswith("fedfleet: TOKEN_INVALID: ")
    assert right.status == 0
    assert there.err.startswith("fedfleet: ALREADY_EXISTS: ")
    assert "observer/otto" in there.err
    assert again.err.startswith("fedfleet: TOKEN_INVALID: ")
    assert (await other("workers")).status == 0  # what was there is still there


async def test_observer_may_look_only(local: Shell, other: Shell) -> None:
    made = (await local("token", "create", "--observer", "otto", "--json")).document
    assert (await other("enroll", "--name", "otto", "--token", made["token"])).status == 0

    for argv in (("run", "list"), ("token", "list"), ("audit", "show"), ("audit", "verify")):
        assert (await other(*argv)).status == 0, argv
    for argv in (
        ("token", "create", "--worker", "pi-7"),
        ("worker", "revoke", "pi-7", "--yes"),
        ("key", "create", "--name", "web", "--scope", "predict"),
    ):
        refused = await other(*argv)
        assert refused.err.startswith("fedfleet: NOT_ALLOWED: "), argv
        assert refused.err.count("\n") == 1
    revoked = await local("operator", "revoke", "otto", "--observer", "--yes")
    assert revoked.out == "observer otto: 1 certificate is worthless now\n"


async def test_printed_command_enrols_the_device(
    running: Running, local: Shell, tmp_path: Path
) -> None:
    shown = await local("token", "create", "--worker", "pi-7")
    command = shown.out.splitlines()[3]

    def on_the_device() -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "device"
        folder.mkdir()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {"PATH": path, "HOME": str(folder)}
        return subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )

    done = await asyncio.to_thread(on_the_device)
    listed = await local("token", "list")
    revoked = await local("worker", "revoke", "pi-7", "--yes")

    assert "token for worker pi-7, once, until 20" in shown.out
    assert shown.out.splitlines()[2] == "on the device:"
    assert "On another machine" in shown.out  # this coordinator's address is loopback
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("worker/pi-7: enrolled")
    assert listed.out == "There is no unused token.\n"
    assert revoked.out == "worker pi-7: 1 certificate is worthless now\n"


@pytest.mark.parametrize(("answer", "status"), [("", 1), ("n\n", 1), ("y\n", 0)])
async def test_revoke_asks_first(
    local: Shell, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    await local("token", "create", "--worker", "pi-7")
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))

    asked = await local("worker", "revoke", "pi-7", "--json")

    assert asked.status == status
    assert "Shut worker pi-7 out?" in asked.err
    assert bool(asked.out) == (status == 0)
    # A worker's tokens go with it.
    tokens = (await local("token", "list", "--json")).document["tokens"]
    assert len(tokens) == (0 if status == 0 else 1)


async def test_token_that_is_deleted_is_worthless(local: Shell, other: Shell) -> None:
    made = (await local("token", "create", "--operator", "anna", "--json")).document

    deleted = await local("token", "delete", made["token_id"])
    again = await local("token", "delete", made["token_id"])
    used = await other("enroll", "--name", "anna", "--token", made["token"])

    assert deleted.status == 0
    assert again.err.startswith("fedfleet: NOT_FOUND: ")
    assert used.err.startswith("fedfleet: TOKEN_INVALID: ")


async def test_worker_s_token_gives_a_person_nothing(local: Shell, other: Shell) -> None:
    made = (await local("token", "create", "--worker", "pi-7", "--json")).document

    refused = await other("enroll", "--name", "pi-7", "--token", made["token"])

    assert refused.err.startswith("fedfleet: CERTIFICATE_INVALID: ")
    assert "fedfleet-worker enroll" in refused.err
    assert not (Path(other.environ["HOME"]) / ".config" / "fedfleet" / FILE).exists()


async def test_keys_are_made_listed_and_revoked(local: Shell) -> None:
    scopes = ("--scope", "predict", "--scope", "models:read")
    made = (await local("key", "create", "--name", "web", *scopes, "--json")).document
    shown = await local("key", "create", "--name", "cam", "--scope", "predict", "--valid", "7d")
    wrong = await local("key", "create", "--name", "web", "--scope", "everything")
    listed = (await local("key", "list", "--json")).document["keys"]
    table = await local("key", "list")
    revoked = await local("key", "revoke", made["key_id"])
    again = await local("key", "revoke", made["key_id"])

    assert made["key"].startswith("flk_")
    assert shown.out.splitlines()[1].startswith("flk_")
    assert wrong.err.startswith("fedfleet: INVALID_INPUT: ")
    assert [(key["name"], key["scopes"]) for key in listed] == [
        ("web", ["predict", "models:read"]),
        ("cam", ["predict"]),
    ]
    assert listed[0]["expires_at_s"] is None
    assert made["key"] not in json.dumps(listed)
    assert "predict, models:read" in table.out
    assert revoked.status == 0
    assert again.err.startswith("fedfleet: NOT_FOUND: ")
    assert [k["name"] for k in (await local("key", "list", "--json")).document["keys"]] == ["cam"]


async def test_audit_tells_who_did_what_and_that_it_is_whole(local: Shell, tmp_path: Path) -> None:
    token = (await local("token", "create", "--worker", "pi-7", "--json")).document["token"]
    await local("key", "create", "--name", "web", "--scope", "predict")
    await local("worker", "revoke", "pi-7", "--yes")

    shown = await local("audit", "show")
    last = await local("audit", "show", "--last", "1", "--json")
    exported = await local("audit", "show", "--json")
    verified = await local("audit", "verify")
    head = (await local("audit", "verify", "--json")).document["head"]
    file = tmp_path / "audit.jsonl"
    file.write_text(exported.out)
    noted = ("--after", str(head["number"]), "--hash", head["hash"])
    url = f"sqlite:{tmp_path / 'store'}"

    records = [json.loads(line) for line in exported.out.splitlines()]
    assert {"token_create", "key_create", "revoke"} <= {record["action"] for record in records}
    # Its own certificate is the one thing that nobody asked for.
    assert (records[0]["actor"], records[0]["action"]) == ("coordinator", "issue")
    assert {record["actor"] for record in records[1:]} == {"operator/local"}
    assert token not in exported.out
    assert token.split("_")[2] not in exported.out
    assert "worker/pi-7" in shown.out
    assert "valid_s=3600.0" in shown.out
    assert json.loads(last.out)["number"] == records[-1]["number"] == head["number"]
    assert verified.out.startswith(f"{len(records)} records are whole")
    assert f"fedfleet audit verify {' '.join(noted)}" in verified.out
    for source in ((), ("--store", url), ("--file", str(file))):
        assert (await local("audit", "verify", *source)).out == verified.out
        again = (await local("audit", "verify", *source, *noted, "--json")).document
        assert again == {"records": 1, "head": head}
    await local("token", "create", "--worker", "pi-8")
    assert (await local("audit", "verify", *noted)).out.startswith("2 records are whole")
    behind = await local("audit", "verify", "--file", str(file), "--after", "99", "--hash", "0")
    assert behind.err.startswith("fedfleet: AUDIT_BROKEN: ")


@pytest.mark.parametrize(
    ("damage", "number"),
    [
        ("UPDATE audit SET actor = 'operator/other' WHERE number = 2", 2),
        ("DELETE FROM audit WHERE number = 2", 2),
        ("DELETE FROM audit WHERE number = 1", 1),
    ],
)
async def test_audit_verify_names_the_record_that_was_tampered_with(
    local: Shell, tmp_path: Path, damage: str, number: int
) -> None:
    for name in ("pi-1", "pi-2", "pi-3"):
        await local("token", "create", "--worker", name)
    connection = sqlite3.connect(tmp_path / "store" / "fedfleet.db")
    with connection:
        assert connection.execute(damage).rowcount == 1
    connection.close()

    by_api = await local("audit", "verify")
    by_store = await local("audit", "verify", "--store", f"sqlite:{tmp_path / 'store'}")

    assert by_api.status == 1
    assert by_api.out == ""
    assert by_api.err.startswith(f"fedfleet: AUDIT_BROKEN: audit record {number} ")
    assert by_store == by_api


async def test_audit_of_a_coordinator_that_is_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        shell = Shell(running, tmp_path / "home", capsys)
        await running.token("pi-7")

    down = await shell("audit", "verify")
    whole = await shell("audit", "verify", "--store", f"sqlite:{tmp_path / 'store'}")

    assert down.err.startswith("fedfleet: UNAVAILABLE: no coordinator answers at ")
    assert whole.out.startswith("2 records are whole, up to record 2\n")


async def test_who_has_no_fitting_credentials_is_told_about_them(
    other: Shell, tmp_path: Path
) -> None:
    stranger = issued(tmp_path / "foreign-ca", "local", Role.OPERATOR)
    save_credentials(tmp_path / "foreign", stranger)
    refused = await other("workers")
    foreign = await other("workers", FEDFLEET_CREDENTIALS=str(tmp_path / "foreign"))
    elsewhere = await other("workers", "--coordinator", "192.0.2.1:7070")
    must = await other("workers", FEDFLEET_TLS="on")

    assert refused.status == 1
    assert refused.err.startswith("fedfleet: UNAVAILABLE: no coordinator answers at ")
    assert "FEDFLEET_CREDENTIALS" in refused.err
    assert foreign.err.startswith("fedfleet: UNAVAILABLE: no coordinator answers at ")
    assert "are these credentials of its authority?" in foreign.err
    assert elsewhere.err.startswith("fedfleet: INSECURE_ADDRESS: no credentials for 192.0.2.1: ")
    assert "fedfleet enroll" in elsewhere.err
    assert must.err.startswith("fedfleet: NOT_FOUND: there are no credentials in ")


@pytest.mark.parametrize("ago_s", [3000.0, 7200.0], ids=["due", "ended"])
async def test_credentials_are_renewed_by_whatever_command_comes_first(
    running: Running, other: Shell, tmp_path: Path, ago_s: float
) -> None:
    old = issued(tmp_path / "store" / "ca", "anna", Role.OPERATOR, ago_s=ago_s)
    held = old.identity
    running.store.access.add_certificate(
        CertificateRecord(
            serial=held.serial,
            role=held.role.value,
            name=held.name,
            issued_at_s=time.time() - ago_s,
            expires_at_s=held.expires_at_s,
        )
    )
    folder = Path(other.environ["HOME"]) / ".config" / "fedfleet"
    save_credentials(folder, old)

    worked = await other("workers")

    assert (worked.status, worked.err) == (0, "")
    renewed = load_credentials(folder)
    assert renewed.identity.text == "operator/anna"
    assert renewed.expires_at_s > time.time() + 86400.0
