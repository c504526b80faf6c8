"""The registry's calls and commands, against a real coordinator."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import pytest_asyncio
from harness import Running, raises_code, running_coordinator, tiny_recipe
from serving import CARD, publish

from fedfleet.cli.main import main
from fedfleet.cli.output import local_time
from fedfleet.errors import StoreUnavailable
from fedfleet.identity.names import Role
from fedfleet.identity.signing import Signer, verify
from fedfleet.models.card import ModelCard
from fedfleet.rpc.control import ControlClient
from fedfleet.store.audit import AuditRecord, Deed
from fedfleet.store.protocols import RunState, Store, VersionRecord, manifest_of
from fedfleet.training.state import initial_state
from fedfleet.types import Evaluation, ModelState, Schema
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.version_folder import (
    RECORD,
    WEIGHTS,
    exported_from_message,
    import_header,
    read_folder,
    read_pieces,
    write_folder,
)
from fedfleet.wire.weights import encode_arrays, encode_state
from fedfleet_coordinator.importing import IMPORT, MAX_IMPORTS
from fedfleet_coordinator.registry_desk import MAX_EXPORTS

HIDDEN = "layers.1.weight"


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert (self.status, self.err) == (0, "")
        return json.loads(self.out)


class Shell:
    """Runs commands beside the coordinator, which this thread's loop serves."""

    def __init__(self, running: Running, capsys: pytest.CaptureFixture[str]) -> None:
        self.running = running
        self._capsys = capsys

    async def __call__(self, *argv: str) -> Result:
        environ = {"FEDFLEET_COORDINATOR": self.running.address}
        status = await asyncio.to_thread(main, argv, environ)
        return Result(status, *self._capsys.readouterr())


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """It drives a run that waits for workers, and so takes up none of those that tests write."""
    async with running_coordinator(tmp_path / "store") as one:
        await one.until(await one.submit(tiny_recipe()), "run_started")
        yield one


@pytest.fixture
def shell(running: Running, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(running, capsys)


def commit(running: Running, count: int, model: str = "digits") -> None:
    """Versions with random weights."""
    first = 1 + running.store.registry.newest_number(model)
    for seed in range(first, first + count):
        publish(running.store, seed, model=model)


def finish(running: Running, model: str = "digits") -> None:
    """End the run that has made them: nothing goes on from its last version."""
    journal = running.store.journal
    entry = journal.entries(f"run-{model}")[-1]
    journal.set_run_state(f"run-{model}", RunState.COMPLETED, entry)


def deeds(running: Running) -> list[tuple[str, str, Any]]:
    return [
        (deed.action, deed.object, deed.fields.get("refused"))
        for deed in running.store.audit.records()
        if deed.action != "submit_run"
    ]


# Looking


async def test_version_and_list_tell_lineage_and_retirement(running: Running, shell: Shell) -> None:
    commit(running, 3)
    running.store.registry.retire("digits", 1, 50.5)

    listed = (await shell("models", "list", "digits", "--json")).document["versions"]
    table = await shell("models", "list")
    shown = await shell("models", "show", "digits", "1")

    assert [one["retired_at_s"] for one in listed] == [None, None, 50.5]
    assert listed[0]["lineage"] == {}
    assert "retired" in table.out
    assert "1970-01-01" in shown.out


async def test_history_shows_the_events_of_a_model(running: Running, shell: Shell) -> None:
    commit(running, 2)
    commit(running, 1, "other")
    await shell("models", "promote", "digits", "2")
    running.store.registry.retire("digits", 1, 50.5)

    document = (await shell("models", "history", "digits", "--json")).document
    table = await shell("models", "history", "digits")
    missing = await shell("models", "history", "nobody")

    events = [(one["kind"], one["version"], one["alias"]) for one in document["events"]]
    assert events == [
        ("version", 1, None),
        ("alias", 1, "latest"),
        ("version", 2, None),
        ("alias", 2, "latest"),
        ("alias", 2, "production"),
        ("retired", 1, None),
    ]
    assert "production names it" in table.out
    assert missing.err.startswith("fedfleet: NOT_FOUND: ")


async def test_events_are_told_from_an_id_on_by_model(running: Running) -> None:
    commit(running, 3)
    commit(running, 3, "other")

    async def ask(**request: Any) -> list[pb.RegistryEvent]:
        response = await running.control.ListRegistryEvents(pb.ListRegistryEventsRequest(**request))
        return list(response.events)

    everything = await ask()
    assert len(everything) == 12
    assert await ask(after_id=everything[4].event_id, limit=3) == everything[5:8]
    others = [event for event in everything if event.model == "other"]
    assert await ask(model="other", limit=2) == others[:2]
    assert await ask(model="other", after_id=others[1].event_id) == others[2:]
    assert await ask(after_id=everything[-1].event_id) == []


async def test_list_and_history_lack_nothing(running: Running, shell: Shell) -> None:
    """Twenty megabytes of metrics do not fit into one message."""
    metrics = {"text": "x" * 2_000_000, "traffic": {"pi": "x" * 2_000_000}}
    for seed in range(1, 11):
        publish(running.store, seed, metrics=metrics)
    commit(running, 2, "other")

    answer = await running.control.ListVersions(pb.ListVersionsRequest(model="digits"))
    table = await shell("models", "list")
    told = await shell("models", "history", "digits", "--json")
    document = (await shell("models", "list", "--json")).document

    assert [one.number for one in answer.versions] == [10, 9, 8, 7, 6, 5, 4]
    assert dict(answer.older) == {"digits": 4}
    listed = [(one["model"], one["version"]) for one in document["versions"]]
    assert listed == [
        *(("digits", number) for number in range(10, 0, -1)),
        ("other", 2),
        ("other", 1),
    ]
    assert document["older"] == {}
    assert all("traffic" not in one["metrics"] for one in document["versions"])
    assert "not listed" not in table.out
    assert len(told.document["events"]) == 20


async def test_list_says_how_many_older_versions_there_are(running: Running, shell: Shell) -> None:
    commit(running, 23)
    commit(running, 3, "other")

    table = await shell("models", "list")
    few = await shell("models", "list", "--limit", "2")
    document = (await shell("models", "list", "digits", "--limit", "22", "--json")).document
    whole = (await shell("models", "list", "--limit", "0", "--json")).document

    assert "digits: 3 older versions are not listed; --limit 0 lists all" in table.out
    assert "other:" not in table.out
    assert "digits: 21 older versions are not listed" in few.out
    assert "other: 1 older version is not listed" in few.out
    assert [one["version"] for one in document["versions"]] == list(range(23, 1, -1))
    assert document["older"] == {"digits": 1}
    assert (len(whole["versions"]), whole["older"]) == (26, {})
    assert [one["name"] for one in whole["versions"][0]["aliases"]] == ["latest"]


@pytest.mark.parametrize("model", ["digits", ""])
@pytest.mark.parametrize("limit", [0, 4])
async def test_list_is_paged_until_its_limit_however_little_fits(
    running: Running, monkeypatch: pytest.MonkeyPatch, model: str, limit: int
) -> None:
    """Also of a model of which nothing fits into the first answer."""
    commit(running, 6)
    commit(running, 5, "other")
    (one,) = (
        await running.control.ListVersions(pb.ListVersionsRequest(model="digits", limit=1))
    ).versions
    monkeypatch.setattr(
        "fedfleet_coordinator.registry_desk.MAX_LISTED_BYTES", one.ByteSize() * 3 // 2
    )

    def ask() -> pb.ListVersionsResponse:
        with ControlClient(running.address) as client:
            return client.list_versions(model, limit)

    listed = await asyncio.to_thread(ask)

    counts = {"digits": 6, "other": 5} if not model else {"digits": 6}
    lowest = {name: count - min(count, limit or count) for name, count in counts.items()}
    assert [(one.model, one.number) for one in listed.versions] == [
        (name, number)
        for name, count in counts.items()
        for number in range(count, lowest[name], -1)
    ]
    assert dict(listed.older) == {name: 1 + low for name, low in lowest.items() if low}
    assert set(listed.aliases) == set(counts)


async def test_list_before_a_number_needs_a_model(running: Running) -> None:
    commit(running, 3)

    async def ask(**request: Any) -> pb.ListVersionsResponse:
        return await running.control.ListVersions(pb.ListVersionsRequest(**request))

    await raises_code("INVALID_INPUT", ask(before=2))
    assert [one.number for one in (await ask(model="digits", before=3)).versions] == [2, 1]
    assert (await ask(model="digits", before=1)) == pb.ListVersionsResponse(
        aliases=(await ask(model="digits")).aliases
    )
    for beyond in (4, 2**64 - 1):
        answer = await ask(model="digits", before=beyond, limit=1)
        assert [one.number for one in answer.versions] == [3]
        assert dict(answer.older) == {"digits": 3}
    unknown = await ask(model="nobody", before=9)
    assert (len(unknown.versions), dict(unknown.older)) == (0, {})


async def test_who_follows_one_model_does_not_read_the_others_events_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, read = running.store.registry, []
    events = registry.events

    def counted(after_id: int = 0, limit: int = 1000) -> Any:
        found = events(after_id, limit)
        read.extend(found)
        return found

    async def ask(after_id: int, model: str = "digits") -> list[int]:
        request = pb.ListRegistryEventsRequest(model=model, after_id=after_id)
        response = await running.control.ListRegistryEvents(request)
        return [event.event_id for event in response.events]

    commit(running, 2)
    commit(running, 20, "other")
    monkeypatch.setattr(registry, "events", counted)
    known = await ask(0)
    assert await ask(0, "nobody") == []
    read.clear()

    assert await ask(known[-1]) == []
    assert await ask(0, "nobody") == []
    assert await ask(known[-1] + 5) == []
    assert read == []
    commit(running, 1, "other")
    commit(running, 1)
    assert len(await ask(known[-1])) == 2
    assert len(read) == 4
    assert await ask(0) == [*known, *[event.event_id for event in read[-2:]]]


# Rollback


async def test_rollback_goes_back_step_by_step(running: Running, shell: Shell) -> None:
    commit(running, 5)
    for number in (1, 2, 4, 5):
        await shell("models", "promote", "digits", str(number))

    first = (await shell("models", "rollback", "digits", "--json")).document
    second = await shell("models", "rollback", "digits")
    third = (await shell("models", "rollback", "digits", "--json")).document
    last = await shell("models", "rollback", "digits")

    assert first == {
        "model": "digits",
        "name": "production",
        "version": 4,
        "revision": 5,
        "left_version": 5,
        "passed_over": [],
    }
    assert "production is version 2 again, revision 6; it was version 4" in second.out
    assert (third["version"], third["left_version"]) == (1, 2)
    assert last.err.startswith("fedfleet: NOT_FOUND: ")
    assert running.store.registry.aliases("digits")["production"].number == 1
    assert deeds(running)[-1] == ("roll_back_alias", "model/digits", "NOT_FOUND")


async def test_rollback_passes_over_what_is_retired(running: Running, shell: Shell) -> None:
    commit(running, 4)
    for number in (1, 2, 3):
        await shell("models", "promote", "digits", str(number))
    running.store.registry.retire("digits", 2, 50.5)

    moved = (await shell("models", "rollback", "digits", "--json")).document
    for number in (3, 4):
        await shell("models", "promote", "digits", str(number))
    running.store.registry.retire("digits", 3, 50.5)
    told = await shell("models", "rollback", "digits")

    assert (moved["version"], moved["left_version"]) == (1, 3)
    assert moved["passed_over"] == [2]
    assert "version 3 was passed over: retired by then" in told.out


async def test_rollback_is_refused_where_somebody_was_faster(
    running: Running, shell: Shell
) -> None:
    commit(running, 3)
    for number in (1, 2):
        await shell("models", "promote", "digits", str(number))

    late = await shell("models", "rollback", "digits", "--expect", "1")
    latest = await shell("models", "rollback", "digits", "--alias", "latest")
    unknown = await shell("models", "rollback", "digits", "--alias", "candidate")
    right = await shell("models", "rollback", "digits", "--expect", "2")

    assert late.err.startswith("fedfleet: CONFLICT: ")
    assert latest.err.startswith("fedfleet: INVALID_INPUT: ")
    assert unknown.err.startswith("fedfleet: NOT_FOUND: ")
    assert right.status == 0
    assert running.store.registry.aliases("digits")["production"].number == 1


async def test_rollback_names_the_retired_versions_where_nothing_is_left(
    running: Running, shell: Shell
) -> None:
    commit(running, 4)
    for number in (1, 2, 4):
        await shell("models", "promote", "digits", str(number))
    for number in (1, 2):
        running.store.registry.retire("digits", number, 50.5)

    refused = await shell("models", "rollback", "digits")

    assert refused.err.startswith("fedfleet: NOT_FOUND: ")
    assert "(1-2: retired)" in refused.err


async def test_what_is_refused_before_it_begins_is_in_the_audit_log(
    running: Running, shell: Shell
) -> None:
    commit(running, 2)

    promoted = await shell("models", "promote", "digits", "1", "--alias", "latest")
    rolled = await shell("models", "rollback", "digits", "--alias", "latest")
    retired = await shell("models", "retire", "nobody", "--keep", "1")
    would = await shell("models", "retire", "nobody", "--keep", "1", "--dry-run")

    assert [one.status for one in (promoted, rolled, retired, would)] == [1] * 4
    assert [deed for deed in deeds(running) if deed[2]] == [
        ("set_alias", "model/digits", "INVALID_INPUT"),
        ("roll_back_alias", "model/digits", "INVALID_INPUT"),
        ("retire_versions", "model/nobody", "NOT_FOUND"),
    ]


# Retirement


async def test_versions_that_a_rollback_of_a_promotion_by_hand_needs_stay(
    running: Running, shell: Shell
) -> None:
    commit(running, 9)
    finish(running)
    for number in (2, 5):
        await shell("models", "promote", "digits", str(number))

    options = ("--keep", "1", "--json")
    would = (await shell("models", "retire", "digits", *options, "--dry-run")).document
    gone = (await shell("models", "retire", "digits", *options)).document
    back = (await shell("models", "rollback", "digits", "--json")).document

    assert would["versions"] == gone["versions"] == [1, 3, 4, 6, 7, 8]
    assert (back["version"], back["left_version"]) == (2, 5)


async def test_retire_is_done_in_pieces_however_many_there_are(
    running: Running, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfleet_coordinator.registry_desk.MAX_RETIRED", 3)
    commit(running, 9)
    finish(running)

    piece = await running.control.RetireVersions(pb.RetireVersionsRequest(model="digits", keep=1))
    rest = (await shell("models", "retire", "digits", "--keep", "1", "--json")).document
    done = [deed for deed in running.store.audit.records() if deed.action == "retire_versions"]

    assert list(piece.versions) == [1, 2, 3]
    assert rest["versions"] == [4, 5, 6, 7, 8]
    assert [deed.fields["versions"] for deed in done] == ["1-3", "4-6", "7-8"]


async def test_retire_counts_no_bytes_that_another_version_shares(
    running: Running, shell: Shell
) -> None:
    for model in ("bought", "bought", "bought", "other"):
        await running.control.ImportVersion(requests_of(header_of(model=model), DATA))

    would = (
        await shell("models", "retire", "bought", "--keep", "1", "--dry-run", "--json")
    ).document
    done = (await shell("models", "retire", "bought", "--keep", "1", "--json")).document

    assert (would["versions"], would["size_bytes"]) == ([1, 2], 0)
    assert (done["versions"], done["size_bytes"]) == ([1, 2], 0)
    assert running.store.blobs.read(header_of().digest) == DATA


async def test_retire_keeps_the_newest_and_what_an_alias_names(
    running: Running, shell: Shell
) -> None:
    commit(running, 8)
    finish(running)
    await shell("models", "promote", "digits", "2")
    size_bytes = running.store.registry.version("digits", 1).size_bytes

    would = (
        await shell("models", "retire", "digits", "--keep", "3", "--dry-run", "--json")
    ).document
    before = running.store.registry.versions("digits")
    done = await shell("models", "retire", "digits", "--keep", "3")
    again = (await shell("models", "retire", "digits", "--keep", "3", "--json")).document

    assert would == {
        "model": "digits",
        "dry_run": True,
        "versions": [1, 3, 4, 5],
        "size_bytes": 4 * size_bytes,
    }
    assert all(version.retired_at_s is None for version in before)
    assert "4 versions retired (1, 3-5)" in done.out
    assert again["versions"] == []
    kept = [v.number for v in running.store.registry.versions("digits") if not v.retired_at_s]
    assert kept == [8, 7, 6, 2]
    for version in running.store.registry.versions("digits"):
        assert (running.store.blobs.size(version.digest) is None) == bool(version.retired_at_s)
    done = [deed for deed in running.store.audit.records() if deed.action == "retire_versions"]
    # Only what is done: the second found nothing to do.
    assert [(deed.object, deed.fields) for deed in done] == [
        ("model/digits", {"keep": 3, "versions": "1, 3-5"})
    ]


async def test_retire_leaves_a_run_that_goes_on_alone(running: Running, shell: Shell) -> None:
    commit(running, 4)

    going = (await shell("models", "retire", "digits", "--keep", "1", "--json")).document
    finish(running)
    ended = (await shell("models", "retire", "digits", "--keep", "1", "--json")).document
    unknown = await shell("models", "retire", "nobody", "--keep", "1")

    assert going["versions"] == []
    assert ended["versions"] == [1, 2, 3]
    assert unknown.err.startswith("fedfleet: NOT_FOUND: ")
    await raises_code(
        "INVALID_INPUT", running.control.RetireVersions(pb.RetireVersionsRequest(model="digits"))
    )


async def test_retired_version_is_neither_promoted_nor_exported(
    running: Running, shell: Shell, tmp_path: Path
) -> None:
    commit(running, 2)
    running.store.registry.retire("digits", 1, 50.5)

    promoted = await shell("models", "promote", "digits", "1")
    exported = await shell("models", "export", "digits", "1", "--to", str(tmp_path / "out"))
    compared = await shell("models", "diff", "digits", "1", "2", "--weights")
    recorded = await shell("models", "diff", "digits", "1", "2")

    assert promoted.err.startswith("fedfleet: CONFLICT: ")
    assert exported.err.startswith("fedfleet: NOT_FOUND: ")
    assert not (tmp_path / "out").exists()
    assert compared.err.startswith("fedfleet: NOT_FOUND: ")
    assert recorded.status == 0


# Export and import


async def test_export_and_import_bring_a_version_to_another_fleet(
    running: Running, shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(running, 2)
    out = tmp_path / "deep" / "out"
    exported = (
        await shell("models", "export", "digits", "latest", "--to", str(out), "--json")
    ).document
    there = running.store.registry.version("digits", 2)

    async with running_coordinator(tmp_path / "other") as other:
        away = Shell(other, capsys)
        options = ("--name", "bought", "--alias", "production", "--alias", "candidate")
        imported = (await away("models", "import", str(out), *options, "--json")).document
        again = await away("models", "import", str(out))
        version = other.store.registry.version("bought", 1)
        data = other.store.blobs.read(version.digest)
        signer = Signer.open(tmp_path / "other" / "ca")
        kept = {name: one.number for name, one in other.store.registry.aliases("bought").items()}
        done = deeds(other)

    assert {path.name for path in out.iterdir()} == {WEIGHTS, RECORD}
    assert not list(out.parent.glob(".*"))
    assert exported["folder"] == str(out)
    assert hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest() == there.digest
    assert (version.digest, version.schema, version.card) == (
        there.digest,
        there.schema,
        there.card,
    )
    assert data == (out / WEIGHTS).read_bytes()
    assert (version.run_id, version.round, version.parent) == ("", 0, None)
    assert version.lineage["imported"] == {
        "model": "digits",
        "version": 2,
        "run_id": "run-digits",
        "round": 2,
        "parent": 1,
        "created_at_s": there.created_at_s,
        "signature": there.signature,
    }
    verify(signer.public_pem, manifest_of(version), version.signature)
    assert imported["version"] == 1
    assert kept == {"candidate": 1, "production": 1}
    assert "digits: version 1" in again.out  # under the name that it had
    assert done == [
        ("import_version", "model/bought", None),
        ("import_version", "model/digits", None),
    ]


async def test_export_does_not_write_over_anything(
    running: Running, shell: Shell, tmp_path: Path
) -> None:
    commit(running, 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")

    fine = await shell("models", "export", "digits", "1", "--to", str(tmp_path / "empty"))
    refused = await shell("models", "export", "digits", "1", "--to", str(tmp_path / "full"))

    assert fine.status == 0
    assert refused.err.startswith("fedfleet: ALREADY_EXISTS: ")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def state_with(value: float) -> ModelState:
    state = initial_state(CARD, 3)
    trainable = state.trainable.copy()
    trainable[7] = value
    return ModelState(state.schema, trainable, state.statistics, state.counters)


EVALUATION = Evaluation(
    samples=10,
    loss_sum=5.0,
    correct=10,
    top5=10,
    class_samples=(1,) * 10,
    class_correct=(1,) * 10,
    class_predicted=(1,) * 10,
).to_json()
STATE = initial_state(CARD, 3)
DATA = encode_state(STATE)


def header_of(data: bytes = DATA, **changes: Any) -> pb.ImportHeader:
    values: dict[str, Any] = {
        "model": "bought",
        "digest": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "schema_json": json.dumps(STATE.schema.to_json()),
        "card_json": json.dumps(CARD.to_json()),
        "metrics_json": json.dumps({"evaluation": EVALUATION}),
        "lineage_json": '{"levels": {"a": 1.0}}',
    }
    return pb.ImportHeader(**{**values, **changes})


def requests_of(header: pb.ImportHeader, *pieces: bytes) -> Iterator[pb.ImportVersionRequest]:
    yield pb.ImportVersionRequest(header=header)
    for piece in pieces:
        yield pb.ImportVersionRequest(chunk=piece)


def renamed(name: str) -> bytes:
    """The file with a tensor of another name and the same length."""
    arrays = STATE.tensors()
    return encode_arrays({name if key == HIDDEN else key: value for key, value in arrays.items()})


def card_with(**changes: Any) -> str:
    return json.dumps({**CARD.to_json(), **changes})


def deep_card(depth: int) -> str:
    return card_with(architecture="vit", options={"depth": depth})


def schema_with(index: int, **changes: Any) -> str:
    rows = [dict(row) for row in STATE.schema.to_json()]
    rows[index] |= changes
    return json.dumps(rows)


NAN, INF = encode_state(state_with(float("nan"))), encode_state(state_with(float("-inf")))
OTHER_NAME = renamed("layers.1.wEight")
HUGE = {
    "channels": 64,
    "height": 4096,
    "width": 4096,
    "mean": [0.5] * 64,
    "std": [0.5] * 64,
}
REFUSED: dict[str, tuple[str, Callable[[], Iterator[pb.ImportVersionRequest]]]] = {
    "nothing": ("TRANSFER_INVALID", lambda: iter(())),
    "no header": ("TRANSFER_INVALID", lambda: iter([pb.ImportVersionRequest(chunk=b"x")])),
    "two headers": (
        "TRANSFER_INVALID",
        lambda: iter([pb.ImportVersionRequest(header=header_of())] * 2),
    ),
    "other bytes": (
        "CHECKSUM_MISMATCH",
        lambda: requests_of(header_of(), bytes(len(DATA))),
    ),
    "cut": ("TRANSFER_INVALID", lambda: requests_of(header_of(), DATA[:-1])),
    "more": ("TRANSFER_INVALID", lambda: requests_of(header_of(), DATA, b"x")),
    "an empty piece": ("TRANSFER_INVALID", lambda: requests_of(header_of(), b"", DATA)),
    "a large piece": (
        "TRANSFER_INVALID",
        lambda: requests_of(header_of(), DATA + bytes(1 << 20)),
    ),
    "not a number": ("INVALID_INPUT", lambda: requests_of(header_of(NAN), NAN)),
    "infinite": ("INVALID_INPUT", lambda: requests_of(header_of(INF), INF)),
    "no safetensors": (
        "SCHEMA_MISMATCH",
        lambda: requests_of(header_of(bytes(len(DATA))), bytes(len(DATA))),
    ),
    "other tensors": ("SCHEMA_MISMATCH", lambda: requests_of(header_of(OTHER_NAME), OTHER_NAME)),
    "another model's tensors": (
        "SCHEMA_MISMATCH",
        lambda: requests_of(
            header_of(OTHER_NAME, schema_json=schema_with(0, name="layers.1.wEight")), OTHER_NAME
        ),
    ),
    "another kind": (
        "SCHEMA_MISMATCH",
        lambda: requests_of(header_of(schema_json=schema_with(0, kind="statistic")), DATA),
    ),
    "another card": (
        "SCHEMA_MISMATCH",
        lambda: requests_of(
            header_of(card_json=card_with(classes=["a", "b"]), metrics_json=""), DATA
        ),
    ),
    "far too large": ("LIMIT_EXCEEDED", lambda: requests_of(header_of(size_bytes=1 << 40))),
    "larger than its tensors": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(size_bytes=len(DATA) + (1 << 20))),
    ),
    "a huge schema": (
        "LIMIT_EXCEEDED",
        lambda: requests_of(header_of(schema_json=schema_with(0, shape=[1 << 20, 1 << 20]))),
    ),
    "too many tensors": (
        "LIMIT_EXCEEDED",
        lambda: requests_of(header_of(schema_json="[" + "1," * 20_000 + "1]")),
    ),
    "a negative shape": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(schema_json=schema_with(0, shape=[-1, 64]))),
    ),
    "no schema": ("INVALID_INPUT", lambda: requests_of(header_of(schema_json="{}"))),
    "deep JSON": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(metrics_json="[" * 100_000 + "]" * 100_000)),
    ),
    "large JSON": (
        "LIMIT_EXCEEDED",
        lambda: requests_of(header_of(metrics_json='"' + "x" * (1 << 20) + '"')),
    ),
    "metrics that are no table": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(metrics_json="[]")),
    ),
    "an evaluation that is none": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(metrics_json='{"evaluation": "x"}')),
    ),
    "an evaluation of another form": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(metrics_json='{"evaluation": {"class_samples": 3}}')),
    ),
    "JSON that cannot be written again": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(lineage_json='{"a":' + "[" * 960 + "]" * 960 + "}")),
    ),
    "a text that is no Unicode": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(lineage_json='{"a": "\\ud800"}')),
    ),
    "a model far too deep": (
        "RECIPE_INVALID",
        lambda: requests_of(header_of(card_json=deep_card(10**4)), DATA),
    ),
    "a model deeper than its tensors": (
        "SCHEMA_MISMATCH",
        lambda: requests_of(header_of(card_json=deep_card(200)), DATA),
    ),
    "a metric that is no number": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(metrics_json='{"a": NaN}')),
    ),
    "an infinite metric": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(metrics_json='{"a": 1e999}')),
    ),
    "an unknown architecture": (
        "UNKNOWN_MODEL",
        lambda: requests_of(header_of(card_json=card_with(architecture="skynet")), DATA),
    ),
    "no card": ("RECIPE_INVALID", lambda: requests_of(header_of(card_json="{}"))),
    "a bad name": ("INVALID_INPUT", lambda: requests_of(header_of(model="../x"))),
    "a bad digest": ("INVALID_INPUT", lambda: requests_of(header_of(digest="AB"))),
    "an alias that moves by itself": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(aliases=["latest"])),
    ),
    "another one": (
        "INVALID_INPUT",
        lambda: requests_of(header_of(aliases=["candidate", "previous"])),
    ),
    "inputs that no memory holds": (
        "RECIPE_INVALID",
        lambda: requests_of(header_of(card_json=card_with(inputs=HUGE)), DATA),
    ),
    "a number for an alias": ("INVALID_INPUT", lambda: requests_of(header_of(aliases=["7"]))),
    "too many aliases": (
        "LIMIT_EXCEEDED",
        lambda: requests_of(header_of(aliases=[f"a{i}" for i in range(17)])),
    ),
}


async def test_import_refuses_what_is_no_version_and_leaves_nothing(running: Running) -> None:
    for name, (code, requests) in REFUSED.items():
        call = running.control.ImportVersion(requests(), timeout=20)
        error = await raises_code(code, call)
        assert len(error.message) < 400, name

    store = running.store
    assert store.registry.models() == []
    assert store.registry.events() == []
    for data in (DATA, NAN, INF, OTHER_NAME, bytes(len(DATA))):
        assert store.blobs.size(hashlib.sha256(data).hexdigest()) is None
    # Each is in the audit log, whenever it was refused: before or after the deed was recorded.
    done = [deed for deed in deeds(running) if deed[0] == "import_version"]
    assert [refused for _, _, refused in done if refused] == [code for code, _ in REFUSED.values()]
    assert {object for _, object, _ in done} == {"model/bought", "model/../x", "model/"}
    response = await running.control.ImportVersion(requests_of(header_of(), DATA))
    assert response.version.number == 1
    assert json.loads(response.version.lineage_json) == {"imported": {}, "levels": {"a": 1.0}}


async def test_show_without_a_version_shows_the_newest(running: Running, shell: Shell) -> None:
    """An imported model has no alias ``latest``."""
    for _ in range(2):
        await running.control.ImportVersion(requests_of(header_of(), DATA))

    shown = (await shell("models", "show", "bought", "--json")).document
    missing = [await shell("models", *argv) for argv in UNKNOWN]

    assert shown["version"] == 2
    for answer in missing:
        assert answer.err == "fedfleet: NOT_FOUND: there is no model 'bough'; there are: bought\n"


UNKNOWN = (
    ("show", "bough"),
    ("promote", "bough", "1"),
    ("history", "bough"),
    ("retire", "bough", "--keep", "1"),
)


async def test_history_says_when_each_thing_happened(running: Running, shell: Shell) -> None:
    await running.control.ImportVersion(requests_of(header_of(), DATA))
    made_s = running.store.registry.version("bought", 1).created_at_s
    await shell("models", "promote", "bought", "1")

    events = (await shell("models", "history", "bought", "--json")).document["events"]
    shown = await shell("models", "history", "bought")

    *_, moved = events
    assert (moved["kind"], moved["alias"]) == ("alias", "production")
    assert made_s < moved["at_s"] <= time.time()
    assert local_time(moved["at_s"]) in shown.out


async def test_import_that_cannot_be_recorded_stores_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the log names whatever a killed coordinator may have stored."""

    def away(deed: Deed) -> AuditRecord:
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(running.store.audit, "append", away)
        header = header_of()
        await raises_code(
            "STORE_UNAVAILABLE", running.control.ImportVersion(requests_of(header, DATA))
        )

    assert running.store.blobs.size(header.digest) is None


async def test_bytes_of_an_import_that_was_killed_are_deleted_at_the_next_start(
    tmp_path: Path,
) -> None:
    def killed(store: Store, data: bytes, *, was_there: bool = False) -> str:
        """What there is when it dies before the version is entered."""
        digest = hashlib.sha256(data).hexdigest()
        fields = {"digest": digest, "size_bytes": len(data), "aliases": [], "was_there": was_there}
        deed = Deed(at_s=1.0, actor="local", action=IMPORT, object="model/bought", fields=fields)
        store.audit.append(deed)
        return store.blobs.put(data)

    async with running_coordinator(tmp_path / "store") as running:
        await running.control.ImportVersion(requests_of(header_of(), DATA))
        recorded = running.store.audit.records()[-1].fields
        entered = killed(running.store, DATA)
        other = killed(running.store, b"of something else", was_there=True)
        left = killed(running.store, b"of no version")
    async with running_coordinator(tmp_path / "store") as running:
        sizes = [running.store.blobs.size(digest) for digest in (entered, other, left)]

    assert recorded["was_there"] is False
    assert sizes == [len(DATA), 17, None]


async def test_import_that_was_cut_is_taken_up_again(running: Running) -> None:
    cut = running.control.ImportVersion(requests_of(header_of(), DATA[:1000]))
    await raises_code("TRANSFER_INVALID", cut)

    pieces = [DATA[start : start + 777] for start in range(0, len(DATA), 777)]
    response = await running.control.ImportVersion(requests_of(header_of(), *pieces))

    assert running.store.blobs.read(response.version.digest) == DATA


async def test_two_imports_of_one_operator_do_not_end_each_other(running: Running) -> None:
    other = encode_state(state_with(0.5))
    headers = (header_of(model="first"), header_of(other, model="second"))
    calls = []
    for header in headers:
        call = running.control.ImportVersion()
        await call.write(pb.ImportVersionRequest(header=header))
        await call.write(pb.ImportVersionRequest(chunk=DATA[:100]))
        calls.append(call)
    await until_refused("LIMIT_EXCEEDED", running)
    for call, data in zip(calls, (DATA, other), strict=True):
        await call.write(pb.ImportVersionRequest(chunk=data[100:]))
        await call.done_writing()
    versions = [(await call).version for call in calls]

    assert [version.digest for version in versions] == [header.digest for header in headers]


async def test_import_that_breaks_leaves_no_bytes(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error that is none of ours, as of a plug-in or a machine without memory."""

    def broken(card: ModelCard) -> Schema:
        raise MemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr("fedfleet_coordinator.importing.schema_of_card", broken)
        await raises_code("INTERNAL", running.control.ImportVersion(requests_of(header_of(), DATA)))

    assert running.store.blobs.size(header_of().digest) is None
    await running.control.ImportVersion(requests_of(header_of(), DATA))


async def test_import_that_stalls_is_ended(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "slow", stall_s=0.2) as running:
        for said in ([], [pb.ImportVersionRequest(header=header_of())]):
            call = running.control.ImportVersion()
            for request in said:
                await call.write(request)
            await raises_code("TIMED_OUT", call)
        assert running.store.registry.models() == []


async def test_import_of_bytes_that_are_there_already_shares_them(running: Running) -> None:
    publish(running.store, 1, state=STATE)
    broken = header_of(card_json=card_with(classes=["a", "b"]), metrics_json="")

    await raises_code("SCHEMA_MISMATCH", running.control.ImportVersion(requests_of(broken, DATA)))
    await running.control.ImportVersion(requests_of(header_of(), DATA))

    assert running.store.registry.version("bought", 1).digest == hashlib.sha256(DATA).hexdigest()
    assert running.store.registry.versions("digits")[0].retired_at_s is None


async def test_import_into_a_model_that_a_run_makes_waits_for_its_end(running: Running) -> None:
    header = header_of(model="tiny", aliases=["candidate"])
    (run,) = running.store.journal.runs()

    await raises_code("CONFLICT", running.control.ImportVersion(requests_of(header, DATA)))
    await running.control.StopRun(pb.StopRunRequest(run_id=run.run_id))
    await running.finished(run.run_id)
    response = await running.control.ImportVersion(requests_of(header, DATA))

    assert response.version.number == 1
    assert running.store.registry.aliases("tiny")["candidate"].number == 1


async def test_few_versions_are_imported_and_exported_at_once(running: Running) -> None:
    commit(running, 1)
    imports = []
    for _ in range(MAX_IMPORTS):
        call = running.control.ImportVersion()
        await call.write(pb.ImportVersionRequest(header=header_of()))
        imports.append(call)
    await until_refused("LIMIT_EXCEEDED", running)
    for call in imports:
        call.cancel()

    data = state_bytes(3_000_000)
    version = big_version(running, data)
    exports = []
    for _ in range(MAX_EXPORTS):
        call = running.control.ExportVersion(
            pb.ExportVersionRequest(model="big", version=str(version.number))
        )
        await call.read()
        exports.append(call)
    late = running.control.ExportVersion(pb.ExportVersionRequest(model="big", version="1"))
    await raises_code("LIMIT_EXCEEDED", late.read())
    for call in exports:
        call.cancel()


async def until_refused(code: str, running: Running) -> None:
    """The running imports are counted once their header was read."""
    for _ in range(50):
        try:
            await running.control.ImportVersion(iter(()), timeout=20)
        except grpc.aio.AioRpcError as error:
            if code in str(error.trailing_metadata()):
                return
    raise AssertionError(f"never {code}")


def state_bytes(size_bytes: int) -> bytes:
    return encode_arrays({"x": np.zeros(size_bytes // 4, np.float32)})


def big_version(running: Running, data: bytes) -> VersionRecord:
    digest = running.store.blobs.put(data)
    record = VersionRecord(
        model="big",
        number=1,
        digest=digest,
        size_bytes=len(data),
        schema=STATE.schema,
        run_id="",
        round=0,
        parent=None,
        created_at_s=1.0,
        card=CARD.to_json(),
    )
    return running.store.registry.add(record)


async def test_observer_looks_and_exports_and_changes_nothing(
    tmp_path: Path,
) -> None:
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        commit(running, 2)
        credentials = await running.enrolled("otto", Role.OBSERVER)
        async with running.seen_by(credentials) as seen:
            export = seen.control.ExportVersion(
                pb.ExportVersionRequest(model="digits", version="2")
            )
            assert (await export.read()).header.version.number == 2
            export.cancel()
            await seen.control.ListRegistryEvents(pb.ListRegistryEventsRequest())
            for call in (
                seen.control.ImportVersion(requests_of(header_of(), DATA)),
                seen.control.RollBackAlias(pb.RollBackAliasRequest(model="digits", alias="a")),
                seen.control.RetireVersions(pb.RetireVersionsRequest(model="digits", keep=1)),
            ):
                await raises_code("NOT_ALLOWED", call)
        imported = await running.control.ImportVersion(requests_of(header_of(), DATA))
    assert imported.version.signature


@pytest.mark.parametrize("damage", ["weights", "record", "gone", "digest", "format", "type"])
async def test_import_of_a_damaged_folder_is_refused_before_anything_is_sent(
    running: Running, shell: Shell, tmp_path: Path, damage: str
) -> None:
    commit(running, 1)
    out = tmp_path / "out"
    await shell("models", "export", "digits", "1", "--to", str(out))
    record = json.loads((out / RECORD).read_text())
    data = (out / WEIGHTS).read_bytes()
    if damage == "weights":
        (out / WEIGHTS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "gone":
        (out / WEIGHTS).unlink()
    elif damage == "record":
        (out / RECORD).write_text(json.dumps(record)[:-10])
    else:
        changes = {"digest": "ab" * 32, "format": "other/1", "type": "x"}
        key = "version" if damage == "type" else damage
        (out / RECORD).write_text(json.dumps({**record, key: changes[damage]}))

    result = await shell("models", "import", str(out), "--name", "bought")

    code = {"weights": "CHECKSUM_MISMATCH", "digest": "CHECKSUM_MISMATCH", "gone": "NOT_FOUND"}
    assert result.err.startswith(f"fedfleet: {code.get(damage, 'INVALID_INPUT')}: ")
    assert result.err.count("\n") == 1
    assert running.store.registry.models() == ["digits"]


async def test_a_version_that_was_imported_twice_tells_both_ways(
    running: Running, shell: Shell, tmp_path: Path
) -> None:
    commit(running, 1)
    for number, model in enumerate(("digits", "first", "second")):
        out = tmp_path / str(number)
        await shell("models", "export", model, "1", "--to", str(out))
        names = ("first", "second", "third")
        await shell("models", "import", str(out), "--name", names[number])

    lineage = running.store.registry.version("second", 1).lineage
    assert lineage["imported"]["model"] == "first"
    assert lineage["imported"]["imported"]["model"] == "digits"
    shown = await shell("models", "show", "second", "1")
    assert "imported" in shown.out
    assert "imported" in (await shell("models", "history", "second")).out


# Differences


async def test_diff_compares_classes_by_their_names(running: Running, shell: Shell) -> None:
    """Both are right of all but the same class, which has another place in each."""
    right = [0] + [1] * 9
    for classes, correct in ((CARD.classes, right), (CARD.classes[::-1], right[::-1])):
        evaluation = {**EVALUATION, "correct": 9, "accuracy": 0.9, "class_correct": correct}
        header = header_of(
            card_json=card_with(classes=classes),
            metrics_json=json.dumps({"evaluation": evaluation}),
        )
        await running.control.ImportVersion(requests_of(header, DATA))

    changes = (await shell("models", "diff", "bought", "1", "2", "--json")).document["classes"]

    assert {one["change"] for one in changes} == {0.0}
    assert [one["name"] for one in changes if one["a"] == 0.0] == ["digit 0"]


async def test_diff_tells_what_changed(running: Running, shell: Shell) -> None:
    publish(running.store, 1, state=STATE)
    publish(running.store, 2, state=state_with(9.0))

    document = (
        await shell("models", "diff", "digits", "1", "latest", "--weights", "--json")
    ).document
    printed = await shell("models", "diff", "digits", "1", "2", "--weights")
    recorded = (await shell("models", "diff", "digits", "1", "2", "--json")).document

    assert (document["a"], document["b"]) == (1, 2)
    assert {"round", "parent", "digest"} <= {one["name"] for one in document["fields"]}
    assert not {"card.architecture", "schema_digest"} & {one["name"] for one in document["fields"]}
    first, *others = document["weights"]
    assert first["name"] == HIDDEN
    moved = abs(9.0 - float(STATE.trainable[7]))
    assert first["largest"] == pytest.approx(moved)
    assert first["l2"] == pytest.approx(moved)
    assert 0 < first["cosine"] < 1
    assert {one["l2"] for one in others} == {0.0}
    assert HIDDEN in printed.out
    assert recorded["weights"] is None


async def test_transferred_bytes_come_in_small_pieces(running: Running) -> None:
    data = state_bytes(3_000_000)
    big_version(running, data)

    call = running.control.ExportVersion(pb.ExportVersionRequest(model="big", version="1"))
    pieces = [response async for response in call]

    assert pieces[0].WhichOneof("part") == "header"
    assert max(len(piece.chunk) for piece in pieces) == 1 << 20
    assert b"".join(piece.chunk for piece in pieces) == data


def test_header_of_a_folder_is_what_a_coordinator_takes(tmp_path: Path) -> None:
    """Every field of the message is said."""
    version = pb.Version(
        model="digits",
        number=7,
        digest=hashlib.sha256(DATA).hexdigest(),
        size_bytes=len(DATA),
        card_json=json.dumps(CARD.to_json()),
    )
    header = pb.ExportHeader(version=version, schema_json=json.dumps(STATE.schema.to_json()))
    write_folder(tmp_path / "out", exported_from_message(header), [DATA])

    told = import_header(read_folder(tmp_path / "out"), "new", ("a",))

    assert b"".join(read_pieces(tmp_path / "out")) == DATA
    assert {field.name for field, _ in told.ListFields()} == {
        field.name for field in pb.ImportHeader.DESCRIPTOR.fields
    }
