"""Callers that take what there is of something: slots, connections, handshakes, streams, memory.

Beside each flood an honest worker dials anew, and completes its round in a stated time.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import grpc
import pytest
from attacks.coordinator import Besieged, coordinator_process, honest_beside
from attacks.http2 import Http2, begun, message, tls_context
from attacks.siege import HONEST, MALLORY
from harness import ScriptedWorker, tiny_recipe, update_for

from fedfleet.identity.names import TARGET_NAME
from fedfleet.rpc.gate import MAX_CALLS
from fedfleet.v1 import enrollment_service_pb2 as enrollment_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.limits import MAX_REQUEST_BYTES, MAX_STRANGER_BYTES
from fedfleet_coordinator.descriptors import raise_limit

CONNECTIONS = 10_000
HANDSHAKES = 2_000
# Sockets of a process that are for something else.
RESERVED = 600
MB = 1 << 20
# What a connection may cost that says nothing.
CONNECTION_BYTES = 64 << 10
# What 20 messages may cost that never end.
STALLED_BYTES = 48 * MB
ENROL = "/fedfleet.v1.EnrollmentService/Enroll"
SUBMIT = "/fedfleet.v1.ControlService/SubmitRun"
UPLOAD = "/fedfleet.v1.FederationService/Upload"
CONNECT = "/fedfleet.v1.FederationService/Connect"
HEALTH = "/grpc.health.v1.Health/Watch"

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with coordinator_process(tmp_path_factory.mktemp("floods"), FEDFLEET_IN_FLIGHT_MB="2") as one:
        yield one


def affordable(wanted: int, record: Record) -> int:
    """As many sockets as a process may have here; the test's record says how many."""
    limit = raise_limit()
    count = min(wanted, limit - RESERVED)
    if count < 100:
        pytest.skip(f"RLIMIT_NOFILE is {limit}: too few for a flood")
    record("sockets", count)
    return count


def opened(stack: ExitStack, port: int, count: int, first: bytes = b"") -> list[socket.socket]:
    """So many connections that say this and then nothing."""
    callers = []
    for number in range(count):
        source = (f"127.0.{number % 50 + 1}.1", 0)
        caller = socket.create_connection(("127.0.0.1", port), 30, source)
        callers.append(stack.enter_context(caller))
        if first:
            caller.sendall(first)
    return callers


def client_hello(context: ssl.SSLContext) -> bytes:
    """What a TLS handshake begins with."""
    sent = ssl.MemoryBIO()
    caller = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=TARGET_NAME)
    with pytest.raises(ssl.SSLWantReadError):
        caller.do_handshake()
    return sent.read()


async def test_ten_thousand_connections_that_say_nothing(
    besieged: Besieged, record_property: Record
) -> None:
    count = affordable(CONNECTIONS, record_property)
    before = besieged.memory_bytes()
    with ExitStack() as stack:
        async with honest_beside(besieged):
            await asyncio.to_thread(opened, stack, besieged.port, count)
        assert besieged.memory_bytes() - before < count * CONNECTION_BYTES


async def test_handshakes_that_stall(besieged: Besieged, record_property: Record) -> None:
    count = affordable(HANDSHAKES, record_property)
    hello = client_hello(tls_context(None))
    before = besieged.memory_bytes()
    with ExitStack() as stack:
        async with honest_beside(besieged):
            await asyncio.to_thread(opened, stack, besieged.port, count // 2, hello)
            await asyncio.to_thread(opened, stack, besieged.port, count // 2, hello[:3])
            await asyncio.to_thread(opened, stack, besieged.enroll_port, 200, hello)
        assert besieged.memory_bytes() - before < 2 * count * CONNECTION_BYTES


# Who has a certificate


async def test_uploads_that_stall_on_every_slot(besieged: Besieged) -> None:
    """There is room for two chunks at once, and each of four attackers waits for one to send."""
    sybils = [f"sybil-{number}" for number in range(4)]
    recipe = tiny_recipe(workers=5, cohort=1, more="over_select = 4")
    async with AsyncExitStack() as stack, honest_beside(besieged, recipe, sybils) as field:
        for name in sybils:
            update = update_for(field.asked[name], name, field.initial, 9.0)
            call = field.seen[name].federation.Upload()
            stack.callback(call.cancel)
            await call.write(pb.UploadRequest(header=update.header))
            assert (await call.read()).WhichOneof("message") == "ready"


async def test_streams_without_a_hello_are_bounded_and_ended(besieged: Besieged) -> None:
    async with honest_beside(besieged) as field, AsyncExitStack() as stack:
        mallory = field.insider.credentials
        seen = [await stack.enter_async_context(field.running.seen_by(mallory)) for _ in range(2)]
        calls = [one.federation.Connect() for one in seen for _ in range(MAX_CALLS - 10)]
        codes = await asyncio.gather(*(call.code() for call in calls))
        # Too many are refused at once, the others when three heartbeats have passed.
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == len(calls) - MAX_CALLS
        assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == MAX_CALLS


async def test_calls_that_are_begun_and_reset_are_not_counted_for_ever(
    besieged: Besieged, tmp_path: Path
) -> None:
    async with honest_beside(besieged) as field:
        context = tls_context(field.insider.credentials, tmp_path)
        begun = await asyncio.to_thread(begin_and_reset, besieged.port, context, CONNECT, 1000)
        assert begun > MAX_CALLS
        await asyncio.to_thread(
            begin_and_reset, besieged.enroll_port, tls_context(None), HEALTH, 1000
        )
        worker = ScriptedWorker(field.insider, MALLORY)
        await worker.connect()
        worker.leave()


def begin_and_reset(port: int, context: ssl.SSLContext, method: str, count: int) -> int:
    """Begin calls and cancel them at once; returns how many, until the server hangs up."""
    with Http2(port, context) as connection:
        connection.pump(1.0)
        for number in range(count):
            connection.call_and_reset(method)
            connection.pump()
            if connection.is_closed:
                return number
    return count


async def test_messages_that_are_begun_and_never_ended(besieged: Besieged, tmp_path: Path) -> None:
    """Each of many streams sends all of a message but its end."""
    async with honest_beside(besieged) as field:
        context = tls_context(field.insider.credentials, tmp_path)
        for method in (SUBMIT, UPLOAD):
            for size in (MAX_REQUEST_BYTES - 1, 15 * MB, 300 * MB):
                grown = await asyncio.to_thread(held_back, besieged, context, method, size)
                assert grown < STALLED_BYTES, (method, size)


# Who has none


async def test_enrolments_that_are_begun_and_never_ended(besieged: Besieged) -> None:
    async with honest_beside(besieged):
        for size in (MAX_STRANGER_BYTES - 1, 15 * MB, 300 * MB):
            grown = await asyncio.to_thread(held_back, besieged, tls_context(None), ENROL, size)
            assert grown < STALLED_BYTES, size


def held_back(besieged: Besieged, context: ssl.SSLContext, method: str, size: int) -> int:
    """Send what a connection takes of 20 messages of a size that never end.

    Returns:
        By how much the memory of the process grew.
    """
    port = besieged.enroll_port if method == ENROL else besieged.port
    before, block = besieged.memory_bytes(), bytes(MB // 4)
    with Http2(port, context) as connection:
        connection.pump(1.0)
        left = {connection.call(method): size - 1 for _ in range(20)}
        for stream in left:
            connection.data(stream, begun(size))
        moved = True
        while moved or connection.came:
            moved = False
            for stream in set(left) - connection.ended:
                sent = connection.data(stream, block[: left[stream]])
                left[stream] -= sent
                moved |= sent > 0
            connection.pump(0.0 if moved else 0.3)
        return besieged.memory_bytes() - before


async def test_flood_of_enrolments(besieged: Besieged) -> None:
    """More than a hundred connections ask for certificates, and for the port's health."""
    before = besieged.memory_bytes()
    with ExitStack() as stack:
        async with honest_beside(besieged):
            await asyncio.to_thread(enrolling, stack, besieged)
        assert besieged.memory_bytes() - before < 100 * MB


def enrolling(stack: ExitStack, besieged: Besieged) -> None:
    request = enrollment_pb.EnrollRequest(worker_id=HONEST, token="fft_" + "0" * 200)
    connections = []
    for _ in range(120):
        connection = stack.enter_context(Http2(besieged.enroll_port, tls_context(None)))
        for _ in range(20):
            for method, data in ((ENROL, request.SerializeToString()), (HEALTH, b"")):
                connection.data(connection.call(method), message(data))
        connections.append(connection)
    for connection in connections:
        connection.pump(0.05)
