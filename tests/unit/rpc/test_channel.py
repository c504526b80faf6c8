from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.server import SERVING, RpcServer


async def test_channel_takes_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_grpc_proxy", "no_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # on which nobody listens
    server = RpcServer()
    address = f"127.0.0.1:{await server.start('127.0.0.1', 0, ())}"
    request = health_pb2.HealthCheckRequest()
    try:
        async with open_channel(address, own_connection=True) as channel:
            response = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
            assert response.status == SERVING
        # One that is opened without our options takes it.
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
    finally:
        await server.stop(0)
