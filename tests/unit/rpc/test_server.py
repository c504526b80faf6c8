from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from certificates import issued
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from raising_server import SERVICE, Served, serving

from fedfleet.errors import AddressInUse, SettingInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials
from fedfleet.rpc.access import AccessInterceptor, Door
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.gate import MAX_CALLS, Gate
from fedfleet.rpc.server import RpcServer
from fedfleet.rpc.tls import server_credentials
from fedfleet.wire.limits import MAX_REQUEST_BYTES, MAX_STRANGER_BYTES

CALL_S = 10.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_answers_for_the_server_and_each_service(served: Served) -> None:
    stub = health_pb2_grpc.HealthStub(served.channel)

    for name in ("", SERVICE):
        request = health_pb2.HealthCheckRequest(service=name)
        assert (await stub.Check(request, timeout=CALL_S)).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=CALL_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_watch_tells_of_the_shutdown(served: Served) -> None:
    stub = health_pb2_grpc.HealthStub(served.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_S)
    assert (await watch.read()).status == SERVING

    await served.server._health.enter_graceful_shutdown()

    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()


async def test_reflection_lists_the_services(served: Served) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)

    answers = [a async for a in stub.ServerReflectionInfo(requests(), timeout=CALL_S)]

    assert [s.name for s in answers[0].list_services_response.service] == [
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    assert answers[1].file_descriptor_response.file_descriptor_proto


async def test_port_zero_gives_a_free_port(served: Served) -> None:
    assert 0 < served.port < 65536


async def refused(host: str, port: int) -> Exception:
    server = RpcServer()
    with pytest.raises((AddressInUse, SettingInvalid)) as caught:
        await server.start(host, port, ())
    await server.stop(0)
    return caught.value


async def test_port_of_another_server_is_in_use(served: Served) -> None:
    error = await refused("127.0.0.1", served.port)

    assert isinstance(error, AddressInUse)
    assert error.code == "ADDRESS_IN_USE"
    assert error.message == (
        f"127.0.0.1:{served.port} is taken by another process; stop it or choose a port"
    )


async def test_port_of_any_other_program_is_in_use() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        error = await refused("127.0.0.1", other.getsockname()[1])

    assert isinstance(error, AddressInUse)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_host_that_is_not_of_this_machine_is_no_port_in_use(host: str) -> None:
    error = await refused(host, 0)

    assert isinstance(error, SettingInvalid)
    assert error.message.startswith(f"cannot listen on {host}:0: ")


async def test_port_can_be_taken_again_at_once() -> None:
    async with serving() as first:
        port = first.port
    async with serving(port) as second:
        assert second.port == port


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_server_listens_on_ipv6_with_or_without_brackets(host: str) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    server = RpcServer()
    port = await server.start(host, 0, ())
    channel = open_channel(f"[::1]:{port}")

    answer = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(), timeout=CALL_S
    )

    assert answer.status == SERVING
    await channel.close()
    await server.stop(0)


async def closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), CALL_S) == b""
    except ConnectionResetError:
        return True


async def test_connections_beyond_the_bound_are_closed_at_once() -> None:
    server = RpcServer(max_connections=3)
    port = await server.start("127.0.0.1", 0, ())
    channel = open_channel(f"127.0.0.1:{port}")
    stub = health_pb2_grpc.HealthStub(channel)
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]

    assert [await closed(reader) for reader, _ in pairs[2:]] == [True] * 4

    # Who was there before is still served.
    assert await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
    for _, writer in pairs:
        writer.close()
    await channel.close()
    await server.stop(0)


async def test_connection_that_does_not_say_hello_is_closed() -> None:
    server = RpcServer(handshake_s=0.2)
    port = await server.start("127.0.0.1", 0, ())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    await asyncio.wait_for(reader.read(), CALL_S)

    assert reader.at_eof()
    writer.close()
    await server.stop(0)


@asynccontextmanager
async def behind(door: Door, folder: Path) -> AsyncIterator[tuple[int, Credentials | None]]:
    """A port, and by what it is dialled."""
    authority = Authority.open(folder)
    shown = authority.server_credentials(time.time(), 3600.0)
    root = authority.root if door is Door.MUTUAL else None
    server = RpcServer(
        access=AccessInterceptor(Gate(), door),
        credentials=None if door is Door.PLAIN else server_credentials(lambda: shown, root),
    )
    port = await server.start("127.0.0.1", 0, ())
    try:
        yield port, None if door is Door.PLAIN else issued(folder, "pi-7")
    finally:
        await server.stop(0)


MOST_BYTES = {
    Door.PLAIN: MAX_REQUEST_BYTES,
    Door.MUTUAL: MAX_REQUEST_BYTES,
    Door.OPEN: MAX_STRANGER_BYTES,
}


@pytest.mark.parametrize("door", Door)
async def test_request_is_bounded_by_what_its_caller_has_shown(door: Door, tmp_path: Path) -> None:
    async with (
        behind(door, tmp_path) as (port, credentials),
        open_channel(f"127.0.0.1:{port}", credentials=credentials) as channel,
    ):
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        for size, code in (
            (MOST_BYTES[door], grpc.StatusCode.NOT_FOUND),
            (MOST_BYTES[door] + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            data = request_of(size)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(data, timeout=CALL_S)
            assert caught.value.code() is code


def request_of(size: int) -> bytes:
    """A health check of so many bytes."""
    longest = health_pb2.HealthCheckRequest(service="x" * size).ByteSize()
    request = health_pb2.HealthCheckRequest(service="x" * (2 * size - longest))
    # The length before the text may have become a byte shorter.
    request.service += "x" * (size - request.ByteSize())
    assert request.ByteSize() == size
    return request.SerializeToString()


MOST_STREAMS = {Door.PLAIN: 1024, Door.MUTUAL: MAX_CALLS, Door.OPEN: 8}


@pytest.mark.parametrize("door", Door)
async def test_streams_are_bounded_by_what_the_caller_has_shown(door: Door, tmp_path: Path) -> None:
    async with behind(door, tmp_path) as (port, credentials):
        context = None
        if credentials is not None:
            file = tmp_path / "caller.pem"
            file.write_bytes(credentials.key + credentials.chain)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(cadata=credentials.root.decode())
            context.set_alpn_protocols(["h2"])
            context.load_cert_chain(file)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        head = await asyncio.wait_for(reader.readexactly(9), CALL_S)
        body = await reader.readexactly(int.from_bytes(head[:3], "big"))
        writer.close()

    assert head[3] == 4  # SETTINGS
    assert dict(struct.iter_unpack(">HI", body))[3] == MOST_STREAMS[door]


def test_port_without_tls_lets_nobody_but_local_callers_in() -> None:
    with pytest.raises(ValueError, match="TLS"):
        RpcServer(access=AccessInterceptor(Gate(), Door.MUTUAL))
