"""Who comes in and who does not: certificates, tokens, roles, over real TLS sockets."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import issued
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    initial_of,
    raises_code,
    running_coordinator,
    tiny_recipe,
    update_for,
)

from fedfleet.errors import NotFound
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials, certificate_request
from fedfleet.identity.files import write_private, write_public
from fedfleet.identity.names import Role
from fedfleet.identity.tokens import new_token
from fedfleet.rpc.control import ControlClient
from fedfleet.rpc.enrolment import enrol, renew
from fedfleet.store.access import TokenRecord
from fedfleet.store.audit import verify
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import enrollment_service_pb2 as enrollment_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1.enrollment_service_pb2_grpc import EnrollmentServiceStub
from fedfleet_coordinator.enrollment import FAILURES, RENEWALS
from fedfleet_coordinator.issuing import NOT_TAKEN, record_of
from fedfleet_coordinator.transfers import MAX_TRANSFERS

HEARTBEAT_S = 1.0


@asynccontextmanager
async def secured(folder: Path, **settings: Any) -> AsyncIterator[Running]:
    async with running_coordinator(
        folder, tls="on", heartbeat_s=HEARTBEAT_S, **settings
    ) as running:
        yield running


async def is_shut_out(running: Running, credentials: Credentials | None) -> None:
    """Assert that the handshake fails: no call gets through."""
    async with running.seen_by(credentials) as seen:
        request = control_pb.ListRunsRequest()
        await raises_code("UNAVAILABLE", seen.control.ListRuns(request, timeout=PATIENCE_S))


# Enrolment


async def test_enrolled_worker_connects_and_its_update_counts(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    async with secured(tmp_path) as running:
        credentials = await running.enrolled("pi-7")
        assert credentials.identity.text == "worker/pi-7"
        async with running.seen_by(credentials) as seen:
            worker = ScriptedWorker(seen, "pi-7")
            await worker.connect()
            run_id = await running.submit(recipe)
            assignment = await worker.assignment()
            await worker.download(assignment)
            await worker.upload(update_for(assignment, "pi-7", initial_of(recipe), 0.1))

            assert (await running.finished(run_id)).state == control_pb.RUN_STATE_COMPLETED


async def test_token_is_good_once(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        token = await running.token("pi-7")

        results = await asyncio.gather(
            *(enrol(running.enrol_address, token, "pi-7") for _ in range(3)),
            return_exceptions=True,
        )

        made = [one for one in results if isinstance(one, Credentials)]
        assert len(made) == 1
        assert {str(one) for one in results if one is not made[0]} == {NOT_TAKEN}
        (record,) = [r for r in running.store.access.certificates() if r.role == "worker"]
        assert record.serial == made[0].identity.serial


async def test_every_wrong_token_is_refused_in_the_same_words(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        token = await running.token("pi-7")
        over = await running.token("pi-8", valid_s=1e-3)
        pin = Authority.open(tmp_path / "ca").pin
        guessed = token[:21] + "0" * 40 + token[61:]
        assert guessed != token
        wrong = [(token, "pi-9"), (over, "pi-8"), (guessed, "pi-7"), (new_token(pin).text, "pi-7")]

        errors = [
            await raises_code("TOKEN_INVALID", enrol(running.enrol_address, text, name))
            for text, name in wrong
        ]

        assert {error.message for error in errors} == {NOT_TAKEN}
        # None of this has used it up.
        assert (await enrol(running.enrol_address, token, "pi-7")).identity.name == "pi-7"


async def test_token_is_not_shown_to_somebody_else_than_who_made_it(tmp_path: Path) -> None:
    async with secured(tmp_path / "a") as running, secured(tmp_path / "b") as other:
        token = await running.token("pi-7")

        await raises_code("CERTIFICATE_INVALID", enrol(other.enrol_address, token, "pi-7"))

        assert (await enrol(running.enrol_address, token, "pi-7")).identity.name == "pi-7"


async def test_who_guesses_is_slowed_down(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        token = await running.token("pi-7")
        shown = ssl.get_server_certificate(("127.0.0.1", running.coordinator.enroll_port))
        options = (("grpc.ssl_target_name_override", "coordinator.fedfleet.internal"),)
        trusted = grpc.ssl_channel_credentials(shown.encode())
        guess = enrollment_pb.EnrollRequest(worker_id="pi-7", token="fft_" + "0" * 40)
        async with grpc.aio.secure_channel(running.enrol_address, trusted, options) as channel:
            call = channel.unary_unary(
                "/fedfleet.v1.EnrollmentService/Enroll",
                request_serializer=enrollment_pb.EnrollRequest.SerializeToString,
            )
            for _ in range(FAILURES):
                await raises_code("TOKEN_INVALID", call(guess, timeout=PATIENCE_S))
            error = await raises_code("LIMIT_EXCEEDED", call(guess, timeout=PATIENCE_S))

        assert "try again in" in error.message
        # One bad device keeps nobody out who shares its address.
        assert (await enrol(running.enrol_address, token, "pi-7")).identity.name == "pi-7"


async def test_guesses_that_come_at_once_count_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with secured(tmp_path) as running:
        access = running.store.access
        token_of = access.token

        def slow(token_id: str) -> TokenRecord:
            time.sleep(0.02)  # a store that is far away
            return token_of(token_id)

        monkeypatch.setattr(access, "token", slow)
        shown = ssl.get_server_certificate(("127.0.0.1", running.coordinator.enroll_port))
        trusted = grpc.ssl_channel_credentials(shown.encode())
        options = (
            ("grpc.ssl_target_name_override", "coordinator.fedfleet.internal"),
            ("grpc.use_local_subchannel_pool", 1),
        )
        guess = enrollment_pb.EnrollRequest(
            worker_id="pi-7", token=new_token(Authority.open(tmp_path / "ca").pin).text
        )
        async with AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(
                    grpc.aio.secure_channel(running.enrol_address, trusted, options)
                )
                for _ in range(FAILURES)
            ]
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            guesses = [
                EnrollmentServiceStub(channel).Enroll(guess, timeout=PATIENCE_S)
                for channel in channels * 2
            ]
            codes = Counter([await one.code() for one in guesses])

    assert codes == {
        grpc.StatusCode.UNAUTHENTICATED: FAILURES,
        grpc.StatusCode.RESOURCE_EXHAUSTED: FAILURES,
    }


async def test_enrolment_port_serves_nothing_else(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        shown = ssl.get_server_certificate(("127.0.0.1", running.coordinator.enroll_port))
        options = (("grpc.ssl_target_name_override", "coordinator.fedfleet.internal"),)
        trusted = grpc.ssl_channel_credentials(shown.encode())
        async with grpc.aio.secure_channel(running.enrol_address, trusted, options) as channel:
            for method in (
                "/fedfleet.v1.ControlService/ListRuns",
                "/fedfleet.v1.FederationService/Connect",
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(method)(b"", timeout=PATIENCE_S)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# Handshakes


async def test_foreign_and_missing_certificates_are_refused_in_the_handshake(
    tmp_path: Path,
) -> None:
    async with secured(tmp_path) as running:
        root = Authority.open(tmp_path / "ca").root
        foreign = replace(issued(tmp_path / "foreign", "pi-7"), root=root)
        await is_shut_out(running, foreign)
        await is_shut_out(running, issued(tmp_path / "ca", "pi-7", life_s=60, ago_s=120))
        await is_shut_out(running, None)


async def test_worker_does_not_talk_to_a_coordinator_of_another_authority(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        known = issued(tmp_path / "ca", "pi-7")

        await is_shut_out(running, replace(known, root=Authority.open(tmp_path / "b").root))


# Claims


async def test_worker_may_speak_for_nobody_else(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    async with secured(tmp_path) as running:
        names = ("worker-0", "worker-1")
        await running.submit(recipe)
        async with (
            running.seen_by(issued(tmp_path / "ca", names[0])) as seen_0,
            running.seen_by(issued(tmp_path / "ca", names[1])) as seen_1,
        ):
            workers = [ScriptedWorker(seen_0, names[0]), ScriptedWorker(seen_1, names[1])]
            for worker in workers:
                await worker.connect()
            assignments = [await worker.assignment() for worker in workers]
            updates = [
                update_for(assignment, name, initial_of(recipe), 1.0)
                for assignment, name in zip(assignments, names, strict=True)
            ]

            await raises_code("NOT_ALLOWED", ScriptedWorker(seen_0, names[1]).connect())
            await raises_code("NOT_ALLOWED", workers[0].upload(updates[1]))
            digest = assignments[0].base_digest
            request = pb.DownloadRequest(digest=digest, worker_id=names[1])
            await raises_code("NOT_ALLOWED", seen_0.federation.Download(request).read())
            # Its own name on an assignment that another worker was given.
            stolen = update_for(assignments[1], names[0], initial_of(recipe), 1.0)
            await raises_code("ASSIGNMENT_CLOSED", workers[0].upload(stolen))

            for worker, update in zip(workers, updates, strict=True):
                assert not (await worker.upload(update)).duplicate


async def test_upload_of_somebody_else_does_not_end_the_one_that_runs(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    async with secured(tmp_path) as running:
        await running.submit(recipe)
        async with (
            running.seen_by(issued(tmp_path / "ca", "worker-0")) as seen,
            running.seen_by(issued(tmp_path / "ca", "other")) as other,
        ):
            worker = ScriptedWorker(seen, "worker-0")
            await worker.connect()
            assignment = await worker.assignment()
            update = update_for(assignment, "worker-0", initial_of(recipe), 1.0)
            going = seen.federation.Upload()
            await going.write(pb.UploadRequest(header=update.header))
            assert (await going.read()).WhichOneof("message") == "ready"

            stolen = update_for(assignment, "other", initial_of(recipe), 1.0)
            await raises_code("ASSIGNMENT_CLOSED", ScriptedWorker(other, "other").upload(stolen))

            for piece in worker._pieces(update):
                await going.write(pb.UploadRequest(chunk=piece))
            assert (await going.read()).receipt.assignment_id == assignment.assignment_id
            going.cancel()


async def test_worker_may_not_report_on_what_another_was_given(tmp_path: Path) -> None:
    async with (
        secured(tmp_path) as running,
        running.seen_by(issued(tmp_path / "ca", "worker-0")) as seen,
    ):
        other = "r-0/1/1/train/worker-1"
        for message in (
            {"progress": pb.AssignmentProgress(assignment_id=other, done_ratio=0.5)},
            {"failure": pb.AssignmentFailure(assignment_id=other, code="DATA_EMPTY")},
            {"evaluation": pb.EvaluationReport(assignment_id=other)},
            {"statistics": pb.StatisticsReport(assignment_id=other)},
        ):
            worker = ScriptedWorker(seen, "worker-0")
            await worker.connect()
            await worker.send(**message)
            await raises_code("INVALID_INPUT", worker.assignment())

        request = control_pb.ListWorkersRequest()
        (listed,) = (await running.control.ListWorkers(request, timeout=PATIENCE_S)).workers
        assert listed.assignment_id == ""


async def test_upload_that_a_newer_one_ends_is_told_so(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    async with secured(tmp_path) as running:
        await running.submit(recipe)
        async with running.seen_by(issued(tmp_path / "ca", "worker-0")) as seen:
            worker = ScriptedWorker(seen, "worker-0")
            await worker.connect()
            assignment = await worker.assignment()
            update = update_for(assignment, "worker-0", initial_of(recipe), 1.0)
            older = seen.federation.Upload(timeout=PATIENCE_S)
            await older.write(pb.UploadRequest(header=update.header))
            assert (await older.read()).WhichOneof("message") == "ready"

            assert not (await worker.upload(update)).duplicate

            answer = asyncio.wait_for(older.read(), 10)
            error = await raises_code("ASSIGNMENT_CLOSED", answer)
            assert error.message == "a newer upload of this assignment took over"


async def test_refusal_is_logged_without_all_that_the_caller_wrote(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        secured(tmp_path) as running,
        running.seen_by(issued(tmp_path / "ca", "worker-0")) as seen,
    ):
        header = pb.UpdateHeader(assignment_id="x" * 10**6, worker_id="worker-0")
        await raises_code(
            "ASSIGNMENT_CLOSED", ScriptedWorker(seen, "worker-0").upload_raw(header, [])
        )

    (record,) = [r for r in caplog.records if r.message == "update_refused"]
    assert len(str(vars(record))) < 5000


async def test_one_transfer_too_many_ends_the_oldest(tmp_path: Path) -> None:
    async with (
        secured(tmp_path) as running,
        running.seen_by(issued(tmp_path / "ca", "worker-0")) as seen,
    ):
        uploads = [seen.federation.Upload() for _ in range(MAX_TRANSFERS + 1)]
        # Which of them the server saw first, the network says.
        codes = [asyncio.ensure_future(call.code()) for call in uploads]
        done, _ = await asyncio.wait(codes, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)

        assert [one.result() for one in done] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
        for call in uploads:
            call.cancel()
        await asyncio.gather(*codes)


# Roles


async def test_observer_looks_on_and_changes_nothing(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        run_id = await running.submit(tiny_recipe())
        async with running.seen_by(await running.enrolled("anna", Role.OBSERVER)) as seen:
            assert (await seen.show(run_id)).run.run_id == run_id
            event = await seen.until(run_id, "run_submitted")
            assert event.run_id == run_id

            stop = control_pb.StopRunRequest(run_id=run_id)
            error = await raises_code("NOT_ALLOWED", seen.control.StopRun(stop, timeout=10))

            assert error.message == "observer/anna may not call StopRun"
            assert (await running.show(run_id)).run.state != control_pb.RUN_STATE_STOPPED


async def test_worker_may_not_operate_nor_an_operator_train(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        await raises_code("NOT_ALLOWED", ScriptedWorker(running, "local").connect())
        async with running.seen_by(issued(tmp_path / "ca", "pi-7")) as seen:
            request = control_pb.CreateTokenRequest(worker_id="pi-8")
            await raises_code("NOT_ALLOWED", seen.control.CreateToken(request, timeout=10))


def test_operators_program_shows_its_certificate(tmp_path: Path) -> None:
    async def asked() -> None:
        async with secured(tmp_path) as running:
            credentials = await running.enrolled("anna", Role.OPERATOR)

            def ask() -> list[str]:
                with ControlClient(running.address, credentials=credentials) as client:
                    made = client.create_token("pi-7", control_pb.ROLE_WORKER, 60.0)
                    assert [token.token_id for token in client.list_tokens()] == [made.token_id]
                    client.delete_token(made.token_id)
                    assert client.list_tokens() == []
                    key = client.create_key("shop", ["predict"])
                    assert [(k.key_id, k.name) for k in client.list_keys()] == [
                        (key.key_id, "shop")
                    ]
                    client.revoke_key(key.key_id)
                    with pytest.raises(NotFound, match="no certificates and no tokens"):
                        client.revoke_worker("pi-7")
                    return [r.action for r in client.list_audit()]

            assert await asyncio.to_thread(ask) == [
                "issue",
                "token_create",
                "enrol",
                "token_create",
                "token_delete",
                "key_create",
                "key_revoke",
                "revoke",
                "revoke",  # refused
            ]

    asyncio.run(asked())


# Ends


async def test_revoked_worker_is_out_within_a_heartbeat(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        credentials = await running.enrolled("pi-7")
        token = await running.token("pi-7")
        async with running.seen_by(credentials) as seen:
            worker = ScriptedWorker(seen, "pi-7")
            await worker.connect()

            request = control_pb.RevokeWorkerRequest(worker_id="pi-7")
            response = await running.control.RevokeWorker(request, timeout=PATIENCE_S)
            began_s = time.monotonic()
            error = await raises_code("UNAUTHENTICATED", worker.read())

            assert time.monotonic() - began_s < HEARTBEAT_S
            assert response.certificates == 1
            assert "revoked" in error.message
            assert running.coordinator.fleet.connected == frozenset()
        async with running.seen_by(credentials) as again:
            await raises_code("UNAUTHENTICATED", ScriptedWorker(again, "pi-7").connect())
            await raises_code(
                "UNAUTHENTICATED", renew(running.address, running.enrol_address, credentials)
            )
        await raises_code("TOKEN_INVALID", enrol(running.enrol_address, token, "pi-7"))
        # A new token lets it in again.
        async with running.seen_by(await running.enrolled("pi-7")) as back:
            await ScriptedWorker(back, "pi-7").connect()


async def test_revocation_outlives_the_coordinator(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        credentials = await running.enrolled("pi-7")
        request = control_pb.RevokeWorkerRequest(worker_id="pi-7")
        await running.control.RevokeWorker(request, timeout=PATIENCE_S)

    async with secured(tmp_path) as running, running.seen_by(credentials) as seen:
        await raises_code("UNAUTHENTICATED", ScriptedWorker(seen, "pi-7").connect())


async def test_revoked_local_operator_is_made_anew_at_the_next_start(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        first = running.credentials
        assert first is not None
        async with running.seen_by(await running.enrolled("anna", Role.OPERATOR)) as anna:
            request = control_pb.RevokeOperatorRequest(name="local", role="ROLE_OPERATOR")
            response = await anna.control.RevokeOperator(request, timeout=PATIENCE_S)
            assert response.certificates == 1
        lists = control_pb.ListRunsRequest()
        await raises_code("UNAUTHENTICATED", running.control.ListRuns(lists, timeout=PATIENCE_S))

    async with secured(tmp_path) as running, running.seen_by(first) as seen:
        assert await running.control.ListRuns(lists, timeout=PATIENCE_S) is not None
        await raises_code("UNAUTHENTICATED", seen.control.ListRuns(lists, timeout=PATIENCE_S))
    # A start later it is still that one.
    second = running.credentials
    async with secured(tmp_path) as running:
        assert running.credentials == second


async def test_stream_ends_with_its_certificate(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        credentials = issued(tmp_path / "ca", "pi-7", life_s=1.0)
        async with running.seen_by(credentials) as seen:
            worker = ScriptedWorker(seen, "pi-7")
            await worker.connect()

            error = await raises_code("UNAUTHENTICATED", worker.read())

            ended_s = time.time() - credentials.identity.expires_at_s
            assert 0 <= ended_s < HEARTBEAT_S
            assert "has ended" in error.message
        await is_shut_out(running, credentials)


# Renewal


async def test_certificate_is_renewed_by_itself(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        old = await running.enrolled("pi-7")

        new = await renew(running.address, running.enrol_address, old)

        assert new.identity.text == "worker/pi-7"
        assert new.identity.serial != old.identity.serial
        assert new.key != old.key
        async with running.seen_by(new) as seen:
            await ScriptedWorker(seen, "pi-7").connect()


def ended(running: Running, ca: Path, days: float, *, is_known: bool = True) -> Credentials:
    """Credentials whose certificate ended so many days ago."""
    credentials = issued(ca, "pi-7", life_s=60.0, ago_s=60.0 + days * 86400)
    if is_known:
        running.store.access.add_certificate(record_of(credentials.identity, time.time()))
    return credentials


async def test_certificate_that_ended_not_long_ago_is_renewed_by_its_key(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        # One that is older than the authority itself would be refused by its date.
        old = ended(running, tmp_path / "ca", 0.001)

        new = await renew(running.address, running.enrol_address, old)

        assert (new.identity.text, new.key) == ("worker/pi-7", old.key)
        async with running.seen_by(new) as seen:
            await ScriptedWorker(seen, "pi-7").connect()


async def test_certificate_that_ended_is_not_renewed_for_others(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        ca = tmp_path / "ca"
        places = (running.address, running.enrol_address)
        refused = {
            "too long ago": ended(running, ca, 31),
            "unknown": ended(running, ca, 1, is_known=False),
            "revoked": ended(running, ca, 2),
            "foreign": ended(running, tmp_path / "foreign", 1),
        }
        stolen = replace(ended(running, ca, 3), key=issued(ca, "thief").key)
        running.store.access.revoke("worker", "pi-7")

        for credentials in (*refused.values(), stolen):
            await raises_code("UNAUTHENTICATED", renew(*places, credentials))


async def test_renewals_that_are_sent_again_do_not_lock_the_holder_out(
    tmp_path: Path,
) -> None:
    async with secured(tmp_path) as running:
        old = ended(running, tmp_path / "ca", 0.001)
        shown = ssl.get_server_certificate(("127.0.0.1", running.coordinator.enroll_port))
        options = (
            ("grpc.ssl_target_name_override", "coordinator.fedfleet.internal"),
            ("grpc.use_local_subchannel_pool", 1),
        )
        trusted = grpc.ssl_channel_credentials(shown.encode())
        request = enrollment_pb.RenewRequest(
            certificate_request=certificate_request(old.key), ended_certificate=old.chain
        )
        async with grpc.aio.secure_channel(running.enrol_address, trusted, options) as channel:
            stub = EnrollmentServiceStub(channel)
            for _ in range(RENEWALS):
                await stub.Renew(request, timeout=PATIENCE_S)
            await raises_code("LIMIT_EXCEEDED", stub.Renew(request, timeout=PATIENCE_S))

        # Elsewhere, as with a certificate that has not ended, it is counted apart.
        new = issued(tmp_path / "ca", "pi-7")
        running.store.access.add_certificate(record_of(new.identity, time.time()))
        await renew(running.address, running.enrol_address, new)


# The audit log


async def test_audit_log_holds_the_deeds_and_verifies(tmp_path: Path) -> None:
    async with secured(tmp_path) as running:
        run_id = await running.submit(tiny_recipe())
        credentials = await running.enrolled("pi-7")
        renewed = await renew(running.address, running.enrol_address, credentials)
        stop = control_pb.StopRunRequest(run_id=run_id)
        await running.control.StopRun(stop, timeout=PATIENCE_S)
        await raises_code("CONFLICT", running.control.StopRun(stop, timeout=PATIENCE_S))
        alias = control_pb.SetAliasRequest(model="tiny", alias="production", version=7)
        await raises_code("NOT_FOUND", running.control.SetAlias(alias, timeout=PATIENCE_S))
        revoke = control_pb.RevokeWorkerRequest(worker_id="pi-7")
        await running.control.RevokeWorker(revoke, timeout=PATIENCE_S)

        request = control_pb.ListAuditRequest()
        response = await running.control.ListAudit(request, timeout=PATIENCE_S)
        records = running.store.audit.records()

    assert verify(records) == len(response.records) == 11
    assert [(r.actor, r.action, r.object, r.fields.get("refused")) for r in records] == [
        ("coordinator", "issue", "operator/local", None),
        ("operator/local", "submit_run", f"run/{run_id}", None),
        ("operator/local", "token_create", "worker/pi-7", None),
        ("worker/pi-7", "enrol", "worker/pi-7", None),
        ("worker/pi-7", "renew", "worker/pi-7", None),
        ("operator/local", "stop_run", f"run/{run_id}", None),
        ("operator/local", "stop_run", f"run/{run_id}", None),
        ("operator/local", "stop_run", f"run/{run_id}", "CONFLICT"),
        ("operator/local", "set_alias", "model/tiny", None),
        ("operator/local", "set_alias", "model/tiny", "NOT_FOUND"),
        ("operator/local", "revoke", "worker/pi-7", None),
    ]
    assert records[4].fields["serial"] == renewed.identity.serial
    assert json.loads(response.records[3].fields_json) == dict(records[3].fields)


# Another authority


async def test_certificates_of_another_authority_are_named_by_files(tmp_path: Path) -> None:
    external = Authority.open(tmp_path / "external")
    files = {
        "server_certificate": tmp_path / "server.pem",
        "server_key": tmp_path / "server.key",
        "client_root": tmp_path / "root.pem",
    }

    def write() -> None:
        made = external.issue_server(["127.0.0.1"], time.time(), 3600.0)
        write_private(files["server_key"], made.key)
        write_public(files["server_certificate"], made.chain)

    def shown(running: Running) -> str:
        return ssl.get_server_certificate(("127.0.0.1", running.coordinator.port))

    write()
    write_public(files["client_root"], external.root)
    operator = issued(tmp_path / "external", "anna", Role.OPERATOR)
    async with secured(tmp_path / "c", **files) as running:
        assert running.coordinator.enroll_port == 0
        async with running.seen_by(replace(operator, target_name="")) as seen:
            request = control_pb.CreateTokenRequest(worker_id="pi-7")
            await raises_code("NOT_SERVED", seen.control.CreateToken(request, timeout=10))
            await seen.submit(tiny_recipe())
        before = await asyncio.to_thread(shown, running)
        write()
        after = await asyncio.to_thread(shown, running)
    assert before != after
