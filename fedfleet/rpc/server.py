"""A grpc.aio server with errors mapped, health, reflection, and a bind that says what is wrong."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from fedfleet.errors import AddressInUse, SettingInvalid
from fedfleet.rpc.access import AccessInterceptor, Door
from fedfleet.rpc.channel import SHARED
from fedfleet.rpc.gate import MAX_CALLS, Gate
from fedfleet.rpc.status import ErrorInterceptor
from fedfleet.rpc.tls import Options
from fedfleet.wire.limits import MAX_REQUEST_BYTES, MAX_STRANGER_BYTES, STALL_S

# A servicer's second argument; its messages are typed by the servicer's signature.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

SERVING = health_pb2.HealthCheckResponse.SERVING

HANDSHAKE_S = 20.0
MAX_CONNECTIONS = 1024
# What a connection may send at once, by what its callers have shown.
_BOUNDS: Mapping[Door, Options] = {
    # Processes with many workers share one connection where there is no TLS.
    Door.PLAIN: (
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_concurrent_streams", 1024),
    ),
    Door.MUTUAL: (
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_concurrent_streams", MAX_CALLS),
        # A worker has its stream; who only keeps a connection that others need comes again.
        ("grpc.max_connection_idle_ms", 120_000),
    ),
    # Strangers say little, and do not stay.
    Door.OPEN: (
        ("grpc.max_receive_message_length", MAX_STRANGER_BYTES),
        ("grpc.max_concurrent_streams", 8),
        ("grpc.max_connection_idle_ms", 10_000),
        ("grpc.max_connection_age_ms", 60_000),
        ("grpc.max_connection_age_grace_ms", 10_000),
    ),
}


class RpcServer:
    """A server that is not yet listening; add services to ``grpc``, then ``start``.

    Bounded are connections, streams of one connection, the handshake, the size of a message, and
    how long a caller may read nothing, and with TLS how long a connection stays without a call.
    Not bounded are the connections of one address or of one certificate: who opens all of them
    keeps others out until they are closed. Each handler bounds its waits.

    Args:
        stall_s: how long a caller may read nothing of a stream before its call is ended.
        access: who is let in; by default a port without TLS, where everybody is.
        credentials: what the port shows in TLS.
        max_connections: further ones are closed at once.
        handshake_s: TLS and HTTP/2 together; a slower connection is closed.
    """

    def __init__(
        self,
        stall_s: float = STALL_S,
        *,
        access: AccessInterceptor | None = None,
        credentials: grpc.ServerCredentials | None = None,
        max_connections: int = MAX_CONNECTIONS,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self._access = access or AccessInterceptor(Gate(), Door.PLAIN)
        self._credentials = credentials
        if (self._access.door is Door.PLAIN) is not (credentials is None):
            raise ValueError("a port has TLS, or everybody may do all")
        options: Options = (
            *SHARED,
            *_BOUNDS[self._access.door],
            # Two servers on one port would share the workers between them, unseen.
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.server_handshake_timeout_ms", int(handshake_s * 1000)),
            ("grpc.max_allowed_incoming_connections", max_connections),
        )
        # The errors of what is let in are mapped inside; the gate maps its own.
        interceptors = (self._access, ErrorInterceptor(stall_s))
        self.grpc = grpc.aio.server(interceptors=interceptors, options=options)
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
        if self._access.door is not Door.OPEN:
            names = (*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self.grpc)
        try:
            bound = self._bind(f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}")
        except RuntimeError as error:
            raise _in_use(bare, port) from error
        await self.grpc.start()
        for name in ("", *services):
            await self._health.set(name, SERVING)
        return bound

    def _bind(self, address: str) -> int:
        if self._credentials is None:
            return self.grpc.add_insecure_port(address)
        return self.grpc.add_secure_port(address, self._credentials)

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
