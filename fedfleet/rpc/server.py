"""A grpc.aio server with errors mapped, health, reflection, and a bind that says what is wrong."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from fedfleet.errors import AddressInUse, SettingInvalid
from fedfleet.rpc.channel import OPTIONS
from fedfleet.rpc.status import ErrorInterceptor
from fedfleet.wire.limits import STALL_S

# A servicer's second argument; its messages are typed by the servicer's signature.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

SERVING = health_pb2.HealthCheckResponse.SERVING


class RpcServer:
    """A server that is not yet listening; add services to ``grpc``, then ``start``.

    Args:
        stall_s: how long a caller may read nothing of a stream before its call is ended.
    """

    def __init__(self, stall_s: float = STALL_S) -> None:
        options = (
            *OPTIONS,
            # Two servers on one port would share the workers between them, unseen.
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        )
        self.grpc = grpc.aio.server(interceptors=(ErrorInterceptor(stall_s),), options=options)
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)

    async def start(self, host: str, port: int, services: Sequence[str]) -> int:
        """Listen and report the services healthy; returns the port (0 asks for a free one).

        Raises:
            AddressInUse: another process has the port.
            SettingInvalid: the host is no address of this machine, or the port is not allowed.
        """
        bare = host.strip("[]")
        _check_free(bare, port)
        names = (*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self.grpc)
        try:
            bound = self.grpc.add_insecure_port(
                f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"
            )
        except RuntimeError as error:
            raise _in_use(bare, port) from error
        await self.grpc.start()
        for name in ("", *services):
            await self._health.set(name, SERVING)
        return bound

    async def stop(self, grace_s: float) -> None:
        """Report unhealthy, take no new call, let the running ones end within the grace."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace_s)


def _check_free(host: str, port: int) -> None:
    """Say why a port cannot be had, which the error of grpc itself does not."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, proto, _, address = found[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _in_use(host, port) from error
        raise SettingInvalid(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _in_use(host: str, port: int) -> AddressInUse:
    return AddressInUse(f"{host}:{port} is taken by another process; stop it or choose a port")
