"""A worker with a good certificate that speaks, downloads and uploads for another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attacks.siege import HONEST, MALLORY, Siege, besieged, refused
from harness import PATIENCE_S, ScriptedWorker

from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2
from fedfleet.wire.updates import EncodedUpdate

NOBODYS = ("", "x", "/", f"/{MALLORY}", f"r-0/1/1/train/{MALLORY}", f"x\n/{MALLORY}")


async def test_hello_in_another_name_is_refused_and_its_stream_goes_on(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        for name in (HONEST, "somebody", "", "operator", "local", HONEST + "\n", HONEST.upper()):
            code = "INVALID_INPUT" if name in ("", HONEST + "\n") else "NOT_ALLOWED"
            await refused(code, ScriptedWorker(siege.insider, name).connect())

        assert siege.running.coordinator.fleet.connected == {HONEST, MALLORY}
        assert set(siege.running.coordinator.fleet.known) == {HONEST, MALLORY}
        await siege.holds()


async def test_download_in_another_name_is_refused_and_not_counted(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        for name in (HONEST, "somebody"):
            request = pb.DownloadRequest(digest=siege.asked.base_digest, worker_id=name)
            call = siege.insider.federation.Download(request, timeout=PATIENCE_S)
            await refused("NOT_ALLOWED", call.read())

        listed = await siege.running.control.ListWorkers(control_pb.ListWorkersRequest())
        assert {worker.worker_id: worker.traffic.bytes_down for worker in listed.workers} == {
            HONEST: 0,
            MALLORY: 0,
        }
        await siege.holds()


async def test_upload_in_another_name_is_refused(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        for name in (HONEST, "somebody", "", f"{MALLORY}/{HONEST}"):
            theirs = siege.update(siege.asked, name)
            await refused("NOT_ALLOWED", siege.mallory.upload(theirs))

        await siege.holds()


async def test_upload_for_an_assignment_that_was_not_given_is_refused(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        key, mine = siege.asked.assignment_id, siege.given.assignment_id
        guesses = (
            key,
            *NOBODYS,
            mine.replace("/1/", "/2/"),
            mine.replace("train", "evaluate"),
            f"{key}/{MALLORY}",
            mine.upper(),
            f"{mine}/{MALLORY}",
            f"{mine}\n",
        )
        for guess in guesses:
            update = siege.update(siege.given, MALLORY)
            update.header.assignment_id = guess
            await refused("ASSIGNMENT_CLOSED", siege.mallory.upload(update))

        assert siege.running.store.journal.updates(siege.run_id, 1) == []
        await siege.holds()


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        ({"run_id": "r-000000000000"}, "ASSIGNMENT_CLOSED"),
        ({"run_id": ""}, "ASSIGNMENT_CLOSED"),
        ({"run_id": "../../etc/passwd\n"}, "ASSIGNMENT_CLOSED"),
        ({"round": 0}, "UPDATE_INVALID"),
        ({"round": 2}, "UPDATE_INVALID"),
        ({"round": (1 << 32) - 1}, "UPDATE_INVALID"),
        ({"level": "b"}, "UPDATE_INVALID"),
        ({"base_digest": "0" * 64}, "SCHEMA_MISMATCH"),
        ({"schema_digest": "0" * 64}, "SCHEMA_MISMATCH"),
    ],
)
async def test_upload_that_lies_about_run_or_round_is_refused(
    lie: dict[str, Any], code: str, tmp_path: Path
) -> None:
    async with besieged(tmp_path) as siege:
        update = siege.update(siege.given, MALLORY)
        for name, value in lie.items():
            setattr(update.header, name, value)

        await refused(code, siege.mallory.upload(update))

        assert siege.running.store.journal.updates(siege.run_id, 1) == []
        await siege.holds()


def on_stream(assignment_id: str) -> dict[str, Any]:
    """What a stream can say of an assignment."""
    evaluation = types_pb2.Evaluation(
        samples=1, class_samples=[1], class_correct=[0], class_predicted=[1]
    )
    return {
        "progress": pb.AssignmentProgress(assignment_id=assignment_id, done_ratio=0.5),
        "failure": pb.AssignmentFailure(assignment_id=assignment_id, code="DATA_EMPTY"),
        "evaluation": pb.EvaluationReport(assignment_id=assignment_id, evaluation=evaluation),
        "statistics": pb.StatisticsReport(assignment_id=assignment_id, samples=1),
    }


@pytest.mark.parametrize("kind", on_stream(""))
async def test_report_of_an_assignment_of_another_one_ends_the_stream_that_makes_it(
    kind: str, tmp_path: Path
) -> None:
    async with besieged(tmp_path) as siege:
        await siege.mallory.send(**{kind: on_stream(siege.asked.assignment_id)[kind]})
        error = await refused("INVALID_INPUT", siege.mallory.assignment())

        assert "was not given to mallory" in error.message
        await still_asked(siege)
        await siege.holds()


async def test_report_of_an_assignment_that_was_not_given_changes_nothing(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        for guess in (f"r-0/1/1/train/{MALLORY}", f"x/{MALLORY}", f"/{MALLORY}"):
            for kind, value in on_stream(guess).items():
                await siege.mallory.send(**{kind: value})
        # Messages of a stream are taken in their order.
        await siege.mallory.send(hello=pb.Hello(worker_id=MALLORY))
        await refused("INVALID_INPUT", siege.mallory.assignment())

        await still_asked(siege)
        await siege.holds()


async def still_asked(siege: Siege) -> None:
    """Nothing is in the journal but that both were asked."""
    entries = siege.running.store.journal.entries(siege.run_id)
    kinds = [entry.kind for entry in entries]
    assert kinds == ["run_submitted", "run_started", "cohort_selected"]


async def test_stream_that_begins_with_something_else_is_ended(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        mine = on_stream(siege.given.assignment_id)
        for kind, value in {**mine, "heartbeat": pb.Heartbeat()}.items():
            call = siege.insider.federation.Connect()
            await call.write(pb.ConnectRequest(**{kind: value}))
            await refused("INVALID_INPUT", call.read())

        await still_asked(siege)
        await siege.holds()


async def test_heartbeat_speaks_for_its_own_stream_alone(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        beat = pb.Heartbeat(pause_reason="pi-7 rests", load_average=99.0)
        await siege.mallory.send(heartbeat=beat)
        await siege.mallory.send(hello=pb.Hello(worker_id=HONEST))
        await refused("INVALID_INPUT", siege.mallory.assignment())

        listed = await siege.running.control.ListWorkers(control_pb.ListWorkersRequest())
        (honest,) = [one for one in listed.workers if one.worker_id == HONEST]
        assert honest.connected
        assert not honest.HasField("heartbeat")
        assert siege.running.coordinator.fleet.ready == {HONEST}
        await siege.holds()


async def test_hello_that_claims_assignments_of_another_one_takes_none_over(
    tmp_path: Path,
) -> None:
    async with besieged(tmp_path) as siege:
        again = ScriptedWorker(siege.insider, MALLORY)
        welcome = await again.connect(held=(siege.asked.assignment_id, *NOBODYS))

        assert set(welcome.wanted_assignment_ids) <= {siege.asked.assignment_id}
        stolen = siege.update(siege.asked, MALLORY)
        await refused("ASSIGNMENT_CLOSED", again.upload(stolen))
        await siege.holds()
        again.leave()


async def test_bytes_of_another_one_under_an_own_header_are_an_own_update(tmp_path: Path) -> None:
    """Who knows what another worker sent may send the same; that counts for itself alone."""
    async with besieged(tmp_path) as siege:
        theirs = siege.update(siege.asked, HONEST)
        going = siege.honest._stub.Upload()
        await going.write(pb.UploadRequest(header=theirs.header))
        await going.read()
        (piece,) = siege.honest._pieces(theirs)
        half = EncodedUpdate(siege.update(siege.given, MALLORY).header, theirs.payload)

        piece.data = piece.data[:-1]
        await refused("CHECKSUM_MISMATCH", siege.mallory.upload_raw(half.header, [piece]))

        going.cancel()
        await siege.holds()
