"""Who may call what: one table, one interceptor that enforces it on every call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from typing import Any

import grpc

from fedfleet.errors import (
    CertificateInvalid,
    FedFleetError,
    InvalidInput,
    NotAllowed,
    TimedOut,
    Unauthenticated,
)
from fedfleet.identity.names import Identity, Role, identity_of
from fedfleet.rpc.gate import Gate, set_current_call
from fedfleet.rpc.patience import within
from fedfleet.rpc.status import abort
from fedfleet.wire.limits import STALL_S

# None stands for a caller who shows no certificate.
Rule = frozenset["Role | None"]
WORKER: Rule = frozenset({Role.WORKER})
OPERATOR: Rule = frozenset({Role.OPERATOR})
READERS: Rule = frozenset({Role.OPERATOR, Role.OBSERVER})
ANYONE: Rule = frozenset({*Role, None})
NOBODY: Rule = frozenset()

# A method that is not here is refused to everybody.
ROLES: Mapping[str, Rule] = {
    "/fedfleet.v1.FederationService/Connect": WORKER,
    "/fedfleet.v1.FederationService/Download": WORKER,
    "/fedfleet.v1.FederationService/Upload": WORKER,
    "/fedfleet.v1.EnrollmentService/Enroll": ANYONE,
    "/fedfleet.v1.EnrollmentService/Renew": ANYONE,
    "/fedfleet.v1.ControlService/SubmitRun": OPERATOR,
    "/fedfleet.v1.ControlService/GetRun": READERS,
    "/fedfleet.v1.ControlService/ListRuns": READERS,
    "/fedfleet.v1.ControlService/StopRun": OPERATOR,
    "/fedfleet.v1.ControlService/WatchRun": READERS,
    "/fedfleet.v1.ControlService/ListWorkers": READERS,
    "/fedfleet.v1.ControlService/CreateToken": OPERATOR,
    "/fedfleet.v1.ControlService/ListTokens": READERS,
    "/fedfleet.v1.ControlService/DeleteToken": OPERATOR,
    "/fedfleet.v1.ControlService/RevokeWorker": OPERATOR,
    "/fedfleet.v1.ControlService/RevokeOperator": OPERATOR,
    "/fedfleet.v1.ControlService/CreateKey": OPERATOR,
    "/fedfleet.v1.ControlService/ListKeys": READERS,
    "/fedfleet.v1.ControlService/RevokeKey": OPERATOR,
    "/fedfleet.v1.ControlService/ListAudit": READERS,
    "/fedfleet.v1.ControlService/ListVersions": READERS,
    "/fedfleet.v1.ControlService/GetVersion": READERS,
    "/fedfleet.v1.ControlService/SetAlias": OPERATOR,
    "/fedfleet.v1.ControlService/RollBackAlias": OPERATOR,
    "/fedfleet.v1.ControlService/RetireVersions": OPERATOR,
    "/fedfleet.v1.ControlService/ExportVersion": READERS,
    "/fedfleet.v1.ControlService/ImportVersion": OPERATOR,
    "/fedfleet.v1.ControlService/ListRegistryEvents": READERS,
    "/grpc.health.v1.Health/Check": ANYONE,
    "/grpc.health.v1.Health/List": ANYONE,
    "/grpc.health.v1.Health/Watch": ANYONE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": READERS,
}

# A caller that reads nothing is not waited for when its call is ended.
END_S = 2.0


class Door(Enum):
    """What a port asks of its callers."""

    PLAIN = "plain"  # no TLS: whoever reaches it is local, and may do all
    MUTUAL = "mutual"  # a certificate
    OPEN = "open"  # TLS, but no certificate: only what anyone may do


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through when the table allows it; the outermost of a server's interceptors.

    Args:
        stall_s: how long a caller may take to send the one request of a call.
    """

    def __init__(self, gate: Gate, door: Door, stall_s: float = STALL_S) -> None:
        self._gate = gate
        self.door = door
        self._stall_s = stall_s

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap a handler. Any: grpc types its handlers so."""
        handler = await continuation(details)
        if handler is None:
            return None
        streaming = handler.stream_stream or handler.stream_unary
        behavior = streaming or handler.unary_stream or handler.unary_unary
        if not handler.request_streaming:
            behavior = _reading_one(behavior, self._stall_s)
        # All of them, so that grpc reads nothing for a caller who is not let in.
        make = grpc.stream_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
        guarded = self._guard(behavior, str(details.method))
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    def _guard(self, behavior: Any, method: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            try:
                running = self._gate.enter(self._admit(context, method))
            except FedFleetError as error:
                await abort(context, error)
            set_current_call(running)
            try:
                return await behavior(request, context)
            except asyncio.CancelledError:
                if running.error is not None:
                    with suppress(asyncio.TimeoutError, grpc.aio.UsageError):
                        await within(END_S, abort(context, running.error))
                raise
            finally:
                self._gate.leave(running)

        return call

    def _admit(self, context: Any, method: str) -> Identity | None:
        """Who calls, if that may call this method."""
        rule = ROLES.get(method, NOBODY)
        if self.door is Door.PLAIN and rule:
            return None
        identity = _identity(context)
        if identity is None and self.door is Door.MUTUAL:
            raise Unauthenticated("this port asks for a certificate: enrol first")
        if (identity.role if identity else None) not in rule:
            who = identity.text if identity else "a caller without a certificate"
            raise NotAllowed(f"{who} may not call {method.rpartition('/')[2]}")
        return identity


def _reading_one(behavior: Any, stall_s: float) -> Any:
    """Serve a stream of requests by what takes the only one."""

    async def call(_: Any, context: Any) -> Any:
        try:
            request = await within(stall_s, context.read())
        except asyncio.TimeoutError:
            await abort(context, TimedOut(f"the request did not come within {stall_s:g} s"))
        if request is grpc.aio.EOF:
            await abort(context, InvalidInput("the call came without a request"))
        return await behavior(request, context)

    return call


def _identity(context: Any) -> Identity | None:
    """Who the connection's certificate names; the handshake has checked who signed it."""
    certificates = context.auth_context().get("x509_pem_cert", ())
    if not certificates:
        return None
    try:
        return _parsed(bytes(certificates[0]))
    except CertificateInvalid as error:
        raise Unauthenticated(f"the certificate names nobody: {error.message}") from error


@lru_cache(maxsize=4096)
def _parsed(certificate_pem: bytes) -> Identity:
    return identity_of(certificate_pem)
