from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import issued
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from raising_server import Raiser, Served, serving

from fedfleet.errors import FedFleetError, LimitExceeded, Unauthenticated
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials
from fedfleet.identity.names import Identity, Role
from fedfleet.rpc.access import ROLES, AccessInterceptor, Door
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.gate import Gate, caller, current_call
from fedfleet.rpc.server import Context, RpcServer
from fedfleet.rpc.status import error_of
from fedfleet.rpc.tls import server_credentials
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1 import control_service_pb2_grpc as pb_grpc
from fedfleet.v1 import enrollment_service_pb2, federation_service_pb2
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

FILES = (pb, enrollment_service_pb2, federation_service_pb2, health_pb2, reflection_pb2)
SERVED = {
    f"/{service.full_name}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
READ_ONLY = ("Export", "Get", "List", "Watch")


# The table


def test_table_has_every_method_and_no_other() -> None:
    assert set(ROLES) == SERVED


@pytest.mark.parametrize("method", [m for m in ROLES if "ControlService" in m])
def test_observers_call_what_only_reads_and_workers_nothing_of_the_operators(method: str) -> None:
    is_read_only = method.rpartition("/")[2].startswith(READ_ONLY)

    assert ROLES[method] == {Role.OPERATOR} | ({Role.OBSERVER} if is_read_only else set())


@pytest.mark.parametrize("method", [m for m in ROLES if "FederationService" in m])
def test_workers_alone_take_part(method: str) -> None:
    assert ROLES[method] == {Role.WORKER}


def test_callers_without_a_certificate_may_enrol_and_ask_how_it_goes() -> None:
    services = {method.split("/")[1] for method, rule in ROLES.items() if None in rule}

    assert services == {"fedfleet.v1.EnrollmentService", "grpc.health.v1.Health"}


# The gate


class Seen(Raiser):
    """Tells who called."""

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        identity = caller()
        return pb.ListRunsResponse(runs=[pb.Run(run_id=identity.text if identity else "local")])

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: Context
    ) -> pb.ListWorkersResponse:
        """Stay until ended from outside."""
        self.ended.set()
        await asyncio.Event().wait()
        raise AssertionError("the wait ended")

    async def ListAudit(
        self, request: pb.ListAuditRequest, context: Context
    ) -> pb.ListAuditResponse:
        """End itself."""
        call = current_call()
        assert call is not None
        call.end(LimitExceeded("one too many"))
        await asyncio.Event().wait()
        raise AssertionError("the wait ended")


async def raises_code(code: str, call: Any) -> FedFleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = error_of(caught.value)
    assert error.code == code, error.message
    return error


class Guarded:
    """A server with TLS whose callers need certificates of the authority in ``ca``."""

    def __init__(self, ca: Path, gate: Gate, servicer: Seen, port: int) -> None:
        self.ca = ca
        self.gate = gate
        self.servicer = servicer
        self.port = port

    @asynccontextmanager
    async def dialled(
        self, credentials: Credentials
    ) -> AsyncIterator[pb_grpc.ControlServiceAsyncStub]:
        async with open_channel(
            f"127.0.0.1:{self.port}", own_connection=True, credentials=credentials
        ) as channel:
            yield ControlServiceStub(channel)


@asynccontextmanager
async def guarded(folder: Path, gate: Gate | None = None) -> AsyncIterator[Guarded]:
    gate = gate or Gate()
    authority = Authority.open(folder)
    shown = authority.server_credentials(time.time(), 3600.0)
    server = RpcServer(
        access=AccessInterceptor(gate, Door.MUTUAL),
        credentials=server_credentials(lambda: shown, authority.root),
    )
    servicer = Seen()  # type: ignore[abstract]
    pb_grpc.add_ControlServiceServicer_to_server(servicer, server.grpc)
    port = await server.start("127.0.0.1", 0, ())
    try:
        yield Guarded(folder, gate, servicer, port)
    finally:
        await server.stop(1.0)


async def test_caller_is_who_the_certificate_names(tmp_path: Path) -> None:
    async with guarded(tmp_path) as server:
        for role in (Role.OPERATOR, Role.OBSERVER):
            async with server.dialled(issued(tmp_path, "anna", role)) as control:
                response = await control.ListRuns(pb.ListRunsRequest(), timeout=10)
                assert response.runs[0].run_id == f"{role.value}/anna"


async def test_role_is_looked_up_in_the_table(tmp_path: Path) -> None:
    async with guarded(tmp_path) as server:
        async with server.dialled(issued(tmp_path, "pi-7")) as control:
            error = await raises_code(
                "NOT_ALLOWED", control.ListRuns(pb.ListRunsRequest(), timeout=10)
            )
        assert error.message == "worker/pi-7 may not call ListRuns"


async def test_certificate_that_names_nobody_of_a_fleet_is_refused(tmp_path: Path) -> None:
    async with guarded(tmp_path) as server:
        # Of this authority, but of a web server; the handshake asks for one that may be a caller's.
        web = Authority.open(tmp_path).issue_server(["example.org"], time.time(), 3600.0)
        shown = Credentials(web.key, web.chain, web.root)
        async with server.dialled(shown) as control:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await control.ListRuns(pb.ListRunsRequest(), timeout=10)
        assert caught.value.code() in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.UNAVAILABLE,
        )


async def test_revoked_certificate_ends_what_runs_and_opens_nothing(tmp_path: Path) -> None:
    async with guarded(tmp_path) as server:
        credentials = issued(tmp_path, "anna", Role.OPERATOR)
        async with (
            server.dialled(credentials) as control,
            server.dialled(issued(tmp_path, "bert", Role.OPERATOR)) as other,
        ):
            running = control.ListWorkers(pb.ListWorkersRequest(), timeout=20)
            await asyncio.wait_for(server.servicer.ended.wait(), 10)

            server.gate.revoke([credentials.identity.serial])

            await raises_code("UNAUTHENTICATED", running)
            await raises_code("UNAUTHENTICATED", control.ListRuns(pb.ListRunsRequest(), timeout=10))
            assert await other.ListRuns(pb.ListRunsRequest(), timeout=10)


async def test_revoked_certificate_ends_a_stream_that_is_not_read(tmp_path: Path) -> None:
    async with guarded(tmp_path) as server:
        credentials = issued(tmp_path, "anna", Role.OPERATOR)
        async with server.dialled(credentials) as control:
            watch = control.WatchRun(pb.WatchRunRequest(run_id="endless"), timeout=60)
            assert await watch.read()

            server.gate.revoke([credentials.identity.serial])

            await asyncio.wait_for(server.servicer.ended.wait(), 10)
            assert server.servicer.closed == ["WatchRun"]
            watch.cancel()


@pytest.mark.parametrize("method", ["GetRun", "WatchRun", "ListWorkers"])
async def test_caller_is_refused_before_its_request_has_come(method: str, tmp_path: Path) -> None:
    async with guarded(tmp_path, Gate(max_calls=1)) as server:
        path = f"/fedfleet.v1.ControlService/{method}"
        address = f"127.0.0.1:{server.port}"
        worker, operator = issued(tmp_path, "pi-7"), issued(tmp_path, "anna", Role.OPERATOR)
        async with open_channel(address, own_connection=True, credentials=worker) as channel:
            await raises_code("NOT_ALLOWED", channel.stream_unary(path)(timeout=10))
        async with open_channel(address, own_connection=True, credentials=operator) as channel:
            running = ControlServiceStub(channel).ListWorkers(pb.ListWorkersRequest(), timeout=20)
            await asyncio.wait_for(server.servicer.ended.wait(), 10)
            await raises_code("LIMIT_EXCEEDED", channel.stream_unary(path)(timeout=10))
            running.cancel()


async def test_request_that_does_not_come_is_not_waited_for() -> None:
    async with serving(stall_s=0.1) as hurried:
        call = hurried.channel.stream_unary("/fedfleet.v1.ControlService/GetRun")
        error = await raises_code("TIMED_OUT", call(timeout=10))
        assert error.message == "the request did not come within 0.1 s"


@pytest.mark.parametrize("method", ["GetRun", "WatchRun"])
async def test_call_without_a_request_is_refused(method: str, served: Served) -> None:
    begun = served.channel.stream_unary(f"/fedfleet.v1.ControlService/{method}")(timeout=10)

    await begun.done_writing()
    error = await raises_code("INVALID_INPUT", begun)

    assert error.message == "the call came without a request"


async def test_call_is_ended_with_the_error_that_was_given(tmp_path: Path) -> None:
    async with guarded(tmp_path) as server:
        async with server.dialled(issued(tmp_path, "anna", Role.OPERATOR)) as control:
            call = control.ListAudit(pb.ListAuditRequest(), timeout=10)
            error = await raises_code("LIMIT_EXCEEDED", call)
        assert error.message == "one too many"


async def test_identity_has_a_bound_on_its_calls(tmp_path: Path) -> None:
    gate = Gate(max_calls=2)
    anna = Identity(Role.OPERATOR, "anna", "1")
    calls = [gate.enter(anna) for _ in range(2)]

    with pytest.raises(LimitExceeded):
        gate.enter(Identity(Role.OPERATOR, "anna", "2"))

    gate.enter(Identity(Role.OBSERVER, "anna", "3"))
    gate.leave(calls[0])
    gate.enter(anna)
    for _ in range(5):
        gate.enter(None)


async def test_clock_that_jumps_over_an_end_shuts_the_gate() -> None:
    now_s = 1000.0
    gate = Gate(clock=lambda: now_s)
    identity = Identity(Role.WORKER, "pi-7", "1", expires_at_s=2000.0)
    gate.leave(gate.enter(identity))

    now_s = 2000.0

    with pytest.raises(Unauthenticated, match="has ended"):
        gate.enter(identity)
