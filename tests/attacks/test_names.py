"""Texts that callers make up, wherever one is taken: as a path, a label, a line of a log."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from attacks.coordinator import Besieged, Field, coordinator_process, honest_beside
from attacks.hostile import GOOD, RECIPE, Hostile, assignment_from, endured, label_values
from attacks.siege import HONEST, MALLORY, besieged, refused
from harness import PATIENCE_S, ScriptedWorker, tiny_recipe, update_for
from serving import publish, serving, wait_served

from fedfleet.cli.main import main
from fedfleet.identity.authority import OPERATOR_FOLDER
from fedfleet.rpc.enrolment import enrol
from fedfleet.store.open import open_store
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import enrollment_service_pb2 as enrollment_pb
from fedfleet.v1 import federation_service_pb2 as pb

FORGED = '{"event":"forged","level":"info"}'
PATHS = (
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "a/../../b",
    "..\\..\\windows",
    "%2e%2e%2fetc%2fpasswd",
    "file:///etc/passwd",
    "~root",
    "a\0b",
)
TEXTS = (
    f"a\n{FORGED}",
    f"a\r\n{FORGED}\n",
    f"\x1b[2J\x1b[31m{FORGED}\x07",
    f"\u202e\u2066{FORGED}\u2069",
    f"a\u2028{FORGED}\u0085b",
    f'"}}\0{FORGED}',
    "$(reboot)`reboot`;reboot",
    "' OR 1=1; DROP TABLE runs; --",
    "*",
    "{hash}.key",
    "[red]markup[/red]",
    "",
)


def files(folder: Path) -> set[Path]:
    """All that lies in a folder, but what SQLite keeps beside its database."""
    return {path for path in folder.rglob("*") if ".db" not in path.name}


def named(folder: Path) -> set[str]:
    """Names of what lies in a folder."""
    return {path.name for path in folder.iterdir()}


# Wherever the coordinator takes a name


def asked(name: str) -> dict[str, Any]:
    """Requests that take a name from an operator."""
    return {
        "GetRun": control_pb.GetRunRequest(run_id=name),
        "StopRun": control_pb.StopRunRequest(run_id=name),
        "GetVersion": control_pb.GetVersionRequest(model=name, version="latest"),
        "GetVersion ": control_pb.GetVersionRequest(model="tiny", version=name),
        "SetAlias": control_pb.SetAliasRequest(model=name, alias="production", version=1),
        # An alias is in no path, so it may be two dots.
        "SetAlias ": control_pb.SetAliasRequest(
            model="tiny", alias=name if name.strip(".") else "/", version=1
        ),
        "CreateToken": control_pb.CreateTokenRequest(worker_id=name),
        "DeleteToken": control_pb.DeleteTokenRequest(token_id=name),
        "RevokeOperator": control_pb.RevokeOperatorRequest(
            name=name, role=control_pb.ROLE_OPERATOR
        ),
        "CreateKey": control_pb.CreateKeyRequest(name=name, scopes=["predict"]),
        "CreateKey ": control_pb.CreateKeyRequest(name="shop", scopes=[name]),
        "RevokeKey": control_pb.RevokeKeyRequest(key_id=name),
        "SubmitRun": control_pb.SubmitRunRequest(recipe=renamed(name)),
        "SubmitRun ": control_pb.SubmitRunRequest(recipe=name),
    }


def renamed(name: str) -> str:
    recipe = tiny_recipe(workers=1, cohort=1)
    return recipe.replace('"tiny"', json.dumps(name), 1)


REFUSALS = ("INVALID_INPUT", "NOT_FOUND", "RECIPE_INVALID")


async def test_names_that_operators_may_not_give_are_refused(tmp_path: Path) -> None:
    async with besieged(tmp_path / "state") as siege:
        await siege.holds()  # so that there is a version to name
        before = files(tmp_path)
        for name in (*PATHS, *TEXTS):
            for method, request in asked(name).items():
                call = getattr(siege.running.control, method.strip())
                error = await refused(REFUSALS, call(request, timeout=PATIENCE_S))
                assert len(error.message) < 1000, (method, name)
            watch = siege.running.control.WatchRun(control_pb.WatchRunRequest(run_id=name))
            await refused("NOT_FOUND", watch.read())

        assert files(tmp_path) == before
        store = siege.running.store
        assert len(store.journal.runs()) == 1
        assert (store.access.tokens(), store.access.keys()) == ([], [])
        assert set(store.registry.aliases("tiny")) == {"latest"}
        for record in store.audit.records():
            assert len(json.dumps(dict(record.fields))) + len(record.object) < 2000


async def test_names_that_workers_may_not_give_are_refused(tmp_path: Path) -> None:
    async with besieged(tmp_path / "state") as siege:
        before = files(tmp_path)
        token = await siege.running.token("pi-8")
        for name in (*PATHS, *TEXTS):
            await refused("INVALID_INPUT", ScriptedWorker(siege.insider, name).connect())
            download = pb.DownloadRequest(digest=name)
            await refused("INVALID_INPUT", siege.insider.federation.Download(download).read())
            for fields in (
                {"assignment_id": name},
                {"assignment_id": f"{name}/{MALLORY}"},
                {"run_id": name},
            ):
                update = siege.update(siege.given, MALLORY)
                for field, value in fields.items():
                    setattr(update.header, field, value)
                await refused("ASSIGNMENT_CLOSED", siege.mallory.upload(update))
        for name in PATHS[:5]:  # a few more are too many guesses
            await refused("TOKEN_INVALID", enrol(siege.running.enrol_address, token, name))

        assert files(tmp_path) == before
        await siege.holds()


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("payload_digest", "../../../etc/passwd"),
        ("payload_digest", TEXTS[0]),
        ("base_digest", "../../../etc/passwd"),
        ("schema_digest", TEXTS[2]),
        ("level", TEXTS[3]),
    ],
)
async def test_header_with_a_name_that_is_none_is_refused(
    field: str, name: str, tmp_path: Path
) -> None:
    async with besieged(tmp_path / "state") as siege:
        before = files(tmp_path)
        update = siege.update(siege.given, MALLORY)
        setattr(update.header, field, name)

        await refused(
            ("INVALID_INPUT", "UPDATE_INVALID", "SCHEMA_MISMATCH"), siege.mallory.upload(update)
        )

        assert files(tmp_path) == before
        await siege.holds()


async def test_texts_of_workers_make_no_line_in_the_log(tmp_path: Path) -> None:
    async with besieged(tmp_path / "state") as siege:
        before = files(tmp_path)
        for text in (*PATHS, *TEXTS):
            worker = ScriptedWorker(siege.insider, MALLORY)
            await worker.connect(
                tags=(text[:64],),
                held=(text,),
                device=pb.DeviceProfile(machine=text, accelerator=text, os=text),
                software_version=text,
                pause_reason=text,
            )
            key = f"{text}/{MALLORY}"
            await worker.send(heartbeat=pb.Heartbeat(pause_reason=text))
            await worker.send(progress=pb.AssignmentProgress(assignment_id=key))
            failure = pb.AssignmentFailure(assignment_id=key, code=text, message=text)
            await worker.send(failure=failure)
            await worker.send(hello=pb.Hello(worker_id=text))
            await refused("INVALID_INPUT", ended(worker))
        again = ScriptedWorker(siege.insider, MALLORY)
        await again.connect()
        failure = pb.AssignmentFailure(
            assignment_id=siege.given.assignment_id, code=TEXTS[0], message=TEXTS[2]
        )
        await again.send(failure=failure)
        failed = await siege.running.until(siege.run_id, "assignment_failed")

        assert failed.fields_json.isprintable()
        assert files(tmp_path) == before
        await siege.holds()  # which looks at the log when all is over
        again.leave()


async def ended(worker: ScriptedWorker) -> None:
    """Read a stream to its end."""
    while await worker.read() is not None:
        pass


# Labels, terminals, and a worker: processes


@pytest.mark.slow
async def test_names_make_no_label_no_line_and_no_command_to_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with coordinator_process(tmp_path) as process:
        async with honest_beside(process) as field:
            await said(field, ("the first of each kind may make a series",))
            before = await asyncio.to_thread(label_values, process.ops_port)
            for number in range(0, 1000, 25):
                await said(field, [f"{number + n}{TEXTS[n % 6]}" for n in range(25)])

            assert await asyncio.to_thread(label_values, process.ops_port) == before
            worker = ScriptedWorker(field.insider, MALLORY)
            await worker.connect(
                tags=TEXTS[:6],
                device=pb.DeviceProfile(machine=TEXTS[2], accelerator=TEXTS[3]),
                pause_reason="".join(TEXTS[:6]),
            )
            shown = await asyncio.to_thread(on_a_terminal, process, capsys, "workers")
            shown += await asyncio.to_thread(on_a_terminal, process, capsys, "workers", MALLORY)
            worker.leave()
    assert MALLORY in shown
    for char in "\x1b\x07\r\x00\u202e\u2066\u2028\x85":
        assert char not in shown


async def said(field: Field, texts: Sequence[str]) -> None:
    """Let the attacker say these, wherever one can."""
    worker = ScriptedWorker(field.insider, MALLORY)
    await worker.connect(tags=texts[:1], software_version=texts[0])
    for text in texts:
        key = f"{text}/{MALLORY}"
        await worker.send(failure=pb.AssignmentFailure(assignment_id=key, code=text, message=text))
        await worker.send(progress=pb.AssignmentProgress(assignment_id=key))
    await worker.send(hello=pb.Hello(worker_id=texts[0]))
    await refused("INVALID_INPUT", ended(worker))
    update = update_for(field.asked[HONEST], MALLORY, field.initial, 1.0)
    update.header.assignment_id = f"{texts[0]}/{MALLORY}"
    await refused("ASSIGNMENT_CLOSED", worker.upload(update))
    call = field.insider.enrolment.Enroll(enrollment_pb.EnrollRequest(worker_id=texts[0]))
    await refused(("TOKEN_INVALID", "LIMIT_EXCEEDED"), call)


def on_a_terminal(process: Besieged, capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What an operator's command prints."""
    environ = {
        "FEDFLEET_CREDENTIALS": str(process.folder / "ca" / OPERATOR_FOLDER),
        "COLUMNS": "500",
    }
    argv = [*command, "--coordinator", f"127.0.0.1:{process.port}"]
    assert main(argv, environ) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.slow
async def test_texts_of_a_coordinator_make_no_file_label_or_line_of_a_worker(
    tmp_path: Path,
) -> None:
    def given(number: int, **fields: Any) -> pb.ConnectResponse:
        assignment = assignment_from(GOOD, number)
        for name, value in fields.items():
            setattr(assignment, name, value)
        return pb.ConnectResponse(assignment=assignment)

    texts = (*PATHS, *TEXTS[:-1])
    messages = []
    for number, text in enumerate(texts, 2):
        cancel = pb.CancelAssignment(assignment_id=text, code=text, reason=text)
        messages += [
            pb.ConnectResponse(cancel=cancel),
            given(number, base_digest=text),
            given(number, assignment_id=text, run_id=text, recipe=text),
            given(number, level=text, schema_digest=text, base_digest="0" * 64),
            given(number, recipe=RECIPE.replace('"tiny"', json.dumps(text), 1)),
        ]
    hostile = Hostile(messages, {"0" * 64: b"x" * len(GOOD)})

    after = await endured(tmp_path / "home", hostile)

    assert len(hostile.failures) == 4 * len(texts)
    for failure in hostile.failures:
        assert failure.message.isprintable(), failure
    assert named(tmp_path) == {"home"}
    assert named(tmp_path / "home") == {"ca", "worker", "worker.log"}
    for label in after.label_values:
        assert "passwd" not in str(label)
        assert "forged" not in str(label)
    assert len(after.label_values) < 60


# The inference service; more of it is in test_http_logs.py


@pytest.mark.parametrize(
    "path",
    [
        "/page/../../../../etc/passwd",
        "/page/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/page/%2e%2e/%2e%2e/config.py",
        "/page//etc/passwd",
        "/page/..\\..\\config.py",
        "/page/style.css%00.html",
        "/models/../page/..%2fconfig.py",
        "/models/..%2f..%2fetc%2fpasswd",
        "/models/%00",
        "/models/%0d%0aset-cookie:%20x=y",
        "/models/%e2%80%ae%1b%5b2J",
        "//etc/passwd",
        "/\\etc\\passwd",
    ],
)
def test_paths_lead_to_no_file(path: str, inference: tuple[str, int]) -> None:
    with socket.create_connection(inference, timeout=PATIENCE_S) as caller:
        caller.sendall(
            f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
        )
        answer = b""
        while piece := caller.recv(1 << 16):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")

    assert head.split()[1] in (b"404", b"400")
    assert b"set-cookie" not in head.lower()
    assert json.loads(body)["error"]["code"] in ("NOT_FOUND", "INVALID_INPUT")
    assert b"root:" not in body
    assert body.rstrip(b"\n").decode("ascii").isprintable()


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with open_store(f"sqlite:{tmp_path_factory.mktemp('names')}") as store:
        version = publish(store, seed=1)
        with serving(store) as (service, client):
            wait_served(service, version)
            assert client.base_url.port is not None
            yield client.base_url.host, client.base_url.port
