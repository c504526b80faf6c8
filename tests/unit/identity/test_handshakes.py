"""What TLS makes of the certificates: handshakes of grpc's, over a socket."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fedfleet.identity.authority import Authority
from fedfleet.identity.certificates import CLIENT, SERVER
from fedfleet.identity.credentials import Credentials, certificate_request, new_key
from fedfleet.identity.names import TARGET_NAME, Role, identity_of

Forge = Callable[..., Credentials]
Method: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
REFUSED = "UNAVAILABLE"


async def tell_who(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Answers with what the handshake has shown of the caller."""
    shown = list(context.auth_context().get("x509_pem_cert", ()))
    return identity_of(shown[0]).text.encode() if shown else b"nobody"


@asynccontextmanager
async def serving(credentials: Credentials, callers_root: bytes | None) -> AsyncIterator[int]:
    """A server on a port of its own; asks callers for certificates of a root, if there is one."""
    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(tell_who)
    handler = grpc.method_handlers_generic_handler("test.Test", {"TellWho": method})
    server.add_generic_rpc_handlers((handler,))
    pair = (credentials.key, credentials.chain)
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([pair], callers_root, callers_root is not None),
    )
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def call(port: int, shown: Credentials | None, trusted: Credentials | None = None) -> str:
    """The server's answer to who shows some credentials and trusts others, or the status."""
    trusted = trusted or shown
    assert trusted is not None
    pair = (None, None) if shown is None else (shown.key, shown.chain)
    name = trusted.target_name
    options = [("grpc.ssl_target_name_override", name)] if name else []
    credentials = grpc.ssl_channel_credentials(trusted.root, *pair)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            method: Method = channel.unary_unary("/test.Test/TellWho")
            answer = await method(b"", timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return answer.decode()


def enrolled(authority: Authority, role: Role, name: str) -> Credentials:
    key = new_key()
    issued = authority.issue(certificate_request(key), role, name, time.time(), 600.0)
    return Credentials(key, issued.chain, authority.root)


@pytest.fixture
async def port(authority: Authority) -> AsyncIterator[int]:
    """The coordinator's."""
    async with serving(authority.server_credentials(time.time(), 600.0), authority.root) as port:
        yield port


@pytest.mark.parametrize("role", [Role.WORKER, Role.OPERATOR, Role.OBSERVER])
async def test_handshake_says_who_calls(port: int, authority: Authority, role: Role) -> None:
    assert await call(port, enrolled(authority, role, "pi-7")) == f"{role.value}/pi-7"


async def test_caller_of_another_authority_is_refused(
    port: int, authority: Authority, foreign: Authority
) -> None:
    theirs = enrolled(foreign, Role.WORKER, "pi-7")

    assert await call(port, theirs, enrolled(authority, Role.WORKER, "pi-7")) == REFUSED


async def test_caller_who_vouches_for_itself_is_refused(port: int, authority: Authority) -> None:
    trusted = enrolled(authority, Role.WORKER, "pi-7")

    assert await call(port, authority.enrolment, trusted) == REFUSED


async def test_caller_without_a_certificate_is_refused(port: int, authority: Authority) -> None:
    assert await call(port, None, enrolled(authority, Role.WORKER, "pi-7")) == REFUSED


async def test_caller_whose_certificate_has_ended_is_refused(port: int, forge: Forge) -> None:
    ended = forge(now_s=time.time() - 100, life_s=50.0)

    assert await call(port, ended) == REFUSED
    assert await call(port, forge(now_s=time.time() - 100, life_s=500.0)) == "worker/pi-7"


async def test_caller_with_a_web_servers_certificate_is_refused(
    port: int, authority: Authority
) -> None:
    server = authority.issue_server(["localhost"], time.time(), 600.0)

    assert await call(port, server, enrolled(authority, Role.WORKER, "pi-7")) == REFUSED


async def test_caller_with_an_ed25519_key_is_refused_by_grpc(port: int, forge: Forge) -> None:
    """Why requests must be for keys on P-256."""
    assert await call(port, forge(key=ed25519.Ed25519PrivateKey.generate())) == REFUSED


async def test_coordinator_of_another_authority_is_not_talked_to(
    port: int, authority: Authority, foreign: Authority
) -> None:
    worker = enrolled(authority, Role.WORKER, "pi-7")

    assert await call(port, worker, replace(worker, root=foreign.root)) == REFUSED


@pytest.mark.parametrize("name", ["localhost", "", "fedfleet.internal"])
async def test_coordinator_is_known_by_one_name(port: int, authority: Authority, name: str) -> None:
    worker = enrolled(authority, Role.WORKER, "pi-7")

    assert await call(port, replace(worker, target_name=name)) == REFUSED


async def test_nobody_else_passes_for_the_coordinator(authority: Authority, forge: Forge) -> None:
    """Neither by a name that only looks like its own, nor with a caller's certificate."""
    worker = enrolled(authority, Role.WORKER, "pi-7")
    impostors = [
        enrolled(authority, Role.OPERATOR, "anna"),
        authority.issue_server(["localhost", "127.0.0.1"], time.time(), 600.0),
        forge(f"spiffe://fedfleet/worker/{TARGET_NAME}", subject=TARGET_NAME),
        forge(hosts=[TARGET_NAME], uses=[CLIENT]),
    ]
    for impostor in impostors:
        async with serving(impostor, authority.root) as port:
            assert await call(port, worker) == REFUSED


async def test_coordinator_is_who_has_its_name_and_the_use_of_a_server(
    authority: Authority, forge: Forge
) -> None:
    """What the authority keeps to itself. The impostors above have the one or the other."""
    worker = enrolled(authority, Role.WORKER, "pi-7")

    async with serving(forge(hosts=[TARGET_NAME], uses=[SERVER]), authority.root) as port:
        assert await call(port, worker) == "worker/pi-7"


async def test_web_server_is_known_by_its_address(authority: Authority) -> None:
    worker = enrolled(authority, Role.WORKER, "pi-7")
    server = authority.issue_server(["127.0.0.1"], time.time(), 600.0)

    async with serving(server, authority.root) as port:
        assert await call(port, replace(worker, target_name="")) == "worker/pi-7"


async def test_enrolment_port_is_trusted_by_its_one_certificate(
    authority: Authority, foreign: Authority
) -> None:
    async with serving(authority.enrolment, None) as port:
        assert await call(port, None, authority.enrolment) == "nobody"
        assert await call(port, None, foreign.enrolment) == REFUSED
        assert await call(port, None, enrolled(authority, Role.WORKER, "pi-7")) == REFUSED
