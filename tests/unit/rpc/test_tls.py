from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from certificates import issued
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedfleet.errors import CertificateInvalid, StoreUnavailable
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials
from fedfleet.rpc.access import AccessInterceptor, Door
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.enrolment import enrol
from fedfleet.rpc.gate import Gate
from fedfleet.rpc.server import RpcServer
from fedfleet.rpc.tls import server_credentials

CALL_S = 10.0


@asynccontextmanager
async def showing(fetch: Callable[[], Credentials], root: bytes):
    server = RpcServer(
        access=AccessInterceptor(Gate(), Door.MUTUAL),
        credentials=server_credentials(fetch, root),
    )
    try:
        yield await server.start("127.0.0.1", 0, ())
    finally:
        await server.stop(0)


async def shown_at(port: int) -> str:
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=CALL_S)


async def check(port: int, credentials: Credentials) -> None:
    async with open_channel(
        f"127.0.0.1:{port}", own_connection=True, credentials=credentials
    ) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)


async def test_certificate_of_a_server_is_renewed_while_it_runs(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path)
    shown = [authority.server_credentials(time.time(), 3600.0) for _ in range(2)]
    current = shown[0]
    async with showing(lambda: current, authority.root) as port:
        assert (await shown_at(port)).encode() in shown[0].chain
        await check(port, issued(tmp_path, "pi-7"))

        current = shown[1]

        assert (await shown_at(port)).encode() in shown[1].chain
        await check(port, issued(tmp_path, "pi-7"))


async def test_certificate_that_cannot_be_renewed_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority.open(tmp_path)
    shown = authority.server_credentials(time.time(), 3600.0)
    is_away = False

    def fetch() -> Credentials:
        if is_away:
            raise StoreUnavailable("the file is away")
        return shown

    async with showing(fetch, authority.root) as port:
        is_away = True
        await check(port, issued(tmp_path, "pi-7"))

    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert (record.message, record.code) == ("server_certificate_not_renewed", "STORE_UNAVAILABLE")


async def test_enrolment_sends_nothing_to_who_shows_another_certificate(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path)
    shown = authority.server_credentials(time.time(), 3600.0)
    token = f"fft_{'0' * 16}_{'0' * 40}_{authority.pin}"
    async with showing(lambda: shown, authority.root) as port:
        with pytest.raises(CertificateInvalid, match="not the coordinator that made this token"):
            await enrol(f"127.0.0.1:{port}", token, "pi-7")
