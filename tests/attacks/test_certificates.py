"""Callers whose certificate is none: foreign, ended, revoked, forged, or for something else."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from attacks.http2 import connect, tls_context
from attacks.siege import HONEST, MALLORY, besieged, refused, until
from certificates import issued
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from grpc.experimental import session_cache
from harness import PATIENCE_S, Running, ScriptedWorker

from fedfleet.identity.authority import Authority
from fedfleet.identity.certificates import CLIENT, Leaf, Pair, make_leaf, make_self_signed
from fedfleet.identity.credentials import Credentials, new_key
from fedfleet.identity.names import Role, uri_of
from fedfleet.identity.pem import chain_pem, key_pem
from fedfleet.rpc.access import ROLES
from fedfleet.rpc.channel import OPTIONS, open_channel
from fedfleet.rpc.enrolment import renew
from fedfleet.rpc.tls import channel_credentials, name_options
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb

LIST = control_pb.ListRunsRequest()
CONTROL = "/fedfleet.v1.ControlService/"


async def test_certificates_that_are_none_end_the_handshake(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        before = siege.running.coordinator.fleet.known.copy()
        for number, forged in enumerate(forgeries(tmp_path)):
            async with siege.running.seen_by(forged) as seen:
                error = await refused("UNAVAILABLE", seen.control.ListRuns(LIST, timeout=10))
                await refused("UNAVAILABLE", ScriptedWorker(seen, HONEST).connect())
            assert "is it running?" in error.message, number

        assert siege.running.coordinator.fleet.known == before
        await siege.holds()


def forgeries(folder: Path) -> Iterator[Credentials | None]:
    """Who is not let in; of each the root is the coordinator's, so that it is dialled at all."""
    authority, foreign = Authority.open(folder / "ca"), Authority.open(folder / "foreign")
    root, now_s = authority.root, time.time()
    yield None
    # Of somebody else's authority, in every role.
    for role in (Role.WORKER, Role.OPERATOR, Role.OBSERVER):
        yield replace(issued(folder / "foreign", MALLORY, role), root=root)
    yield replace(foreign.server_credentials(now_s, 60.0), root=root)
    # Foreign, with the genuine issuer's certificate put behind it.
    genuine = issued(folder / "ca", MALLORY)
    issuing = genuine.chain[len(leaf_of(genuine.chain)) :]
    forged = issued(folder / "foreign", MALLORY, Role.OPERATOR)
    yield replace(forged, chain=leaf_of(forged.chain) + issuing, root=root)
    # Ended; and not begun.
    yield issued(folder / "ca", HONEST, life_s=60.0, ago_s=120.0)
    yield issued(folder / "ca", HONEST, ago_s=-3600.0)
    # What the enrolment port shows, and one that vouches for itself as an operator.
    yield replace(authority.enrolment, root=root)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = operator_leaf()
    yield Credentials(key_pem(key), chain_pem(make_self_signed(key, leaf, now_s)), root)
    # Signed with a worker's own key, as if that were an authority.
    signer = Pair(
        load_pem_private_key(genuine.key, None),  # type: ignore[arg-type]  # it is on P-256
        x509.load_pem_x509_certificate(genuine.chain),
    )
    forgery = chain_pem(make_leaf(signer, key.public_key(), leaf, now_s, 60.0), signer.certificate)
    yield Credentials(key_pem(key), forgery + issuing, root)
    # For a web server, of the genuine authority.
    yield replace(
        authority.issue_server(["127.0.0.1"], now_s, 60.0),
        root=root,
        target_name=genuine.target_name,
    )


def operator_leaf() -> Leaf:
    uri = x509.UniformResourceIdentifier(uri_of(Role.OPERATOR, "local"))
    return Leaf(subject="local", names=[uri], uses=[CLIENT])


def leaf_of(chain: bytes) -> bytes:
    end = b"-----END CERTIFICATE-----\n"
    return chain[: chain.index(end) + len(end)]


async def test_certificate_without_its_key_is_worth_nothing(tmp_path: Path) -> None:
    """Certificates travel and lie about; who has another's still has to sign with its key."""
    async with besieged(tmp_path) as siege:
        operator = siege.running.credentials
        assert operator is not None
        with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
            tls_context(replace(operator, key=new_key()), tmp_path)
        await siege.holds()


async def test_ports_speak_no_plain_text_and_no_old_tls(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        coordinator = siege.running.coordinator
        for port in (coordinator.port, coordinator.enroll_port):
            plain = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
            async with plain as channel:
                call = channel.unary_unary(f"{CONTROL}ListRuns")
                await refused("UNAVAILABLE", call(b"", timeout=10))
            for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
                old = tls_context(siege.running.credentials, tmp_path)
                old.set_ciphers("ALL:@SECLEVEL=0")
                with pytest.warns(DeprecationWarning, match="TLSVersion"):
                    old.minimum_version = old.maximum_version = version
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await asyncio.to_thread(connect, port, old)
        await siege.holds()


# Good certificates, for something else


def methods(prefix: str) -> list[str]:
    return [method for method in ROLES if method.startswith(prefix)]


async def test_worker_may_call_nothing_of_the_operators(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        audited = len(siege.running.store.audit.records())
        for method in [*methods(CONTROL), *methods("/grpc.reflection"), "/fedfleet.v1.X/Y", "/x"]:
            code = "NOT_ALLOWED" if method in ROLES else "NOT_SERVED"
            await refused(code, raw_call(siege.insider, method))

        assert len(siege.running.store.audit.records()) == audited
        assert len(siege.running.store.journal.runs()) == 1
        await siege.holds()


async def test_observer_may_change_nothing_and_an_operator_is_no_worker(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        observer = issued(tmp_path / "ca", "anna", Role.OBSERVER)
        changing = [m for m in methods(CONTROL) if Role.OBSERVER not in ROLES[m]]
        assert len(changing) == 12
        async with siege.running.seen_by(observer) as seen:
            for method in [*changing, *methods("/fedfleet.v1.FederationService/")]:
                await refused("NOT_ALLOWED", raw_call(seen, method))
        for method in methods("/fedfleet.v1.FederationService/"):
            await refused("NOT_ALLOWED", raw_call(siege.running, method))
        await siege.holds()


async def test_coordinators_own_certificate_opens_nothing(tmp_path: Path) -> None:
    """As where its memory was read: the key that the port shows is no operator's."""
    async with besieged(tmp_path) as siege:
        own = Authority.open(tmp_path / "ca").server_credentials(time.time(), 60.0)
        async with siege.running.seen_by(own) as seen:
            for method in [*methods("/fedfleet.v1.FederationService/"), *methods(CONTROL)]:
                await refused("NOT_ALLOWED", raw_call(seen, method))
        await refused(
            "CERTIFICATE_INVALID",
            renew(siege.running.address, siege.running.enrol_address, own),
        )
        await siege.holds()


async def raw_call(seen: Running, method: str) -> object:
    """Call a method with an empty message; on the wire one message is one, stream or not."""
    async with open_channel(seen.address, credentials=seen.credentials) as channel:
        return await channel.unary_unary(method)(b"", timeout=PATIENCE_S)


# Good ones, until now


async def test_revoked_worker_is_out_with_all_that_it_holds(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        credentials = siege.insider.credentials
        assert credentials is not None
        upload = siege.insider.federation.Upload()
        await upload.write(pb.UploadRequest(header=siege.update(siege.given, MALLORY).header))
        assert (await upload.read()).WhichOneof("message") == "ready"

        request = control_pb.RevokeWorkerRequest(worker_id=MALLORY)
        response = await siege.running.control.RevokeWorker(request, timeout=PATIENCE_S)

        assert response.certificates == 1
        await refused("UNAUTHENTICATED", siege.mallory.assignment())
        await refused("UNAUTHENTICATED", upload.read())
        # Neither on the connection that it has, nor on another one.
        await refused("UNAUTHENTICATED", ScriptedWorker(siege.insider, MALLORY).connect())
        update = siege.update(siege.given, MALLORY)
        await refused("UNAUTHENTICATED", siege.mallory.upload(update))
        async with siege.running.seen_by(credentials) as again:
            request = pb.DownloadRequest(digest=siege.given.base_digest)
            await refused("UNAUTHENTICATED", again.federation.Download(request).read())
        places = (siege.running.address, siege.running.enrol_address)
        await refused("UNAUTHENTICATED", renew(*places, credentials))
        await refused("UNAUTHENTICATED", renew(*places, credentials, has_ended=True))
        await until(lambda: siege.running.coordinator.fleet.connected == {HONEST})
        await siege.holds()


async def test_session_that_is_resumed_after_its_certificate_ended_opens_nothing(
    tmp_path: Path,
) -> None:
    """TLS does not look at the certificate again when a session is resumed; the gate does."""
    async with besieged(tmp_path) as siege:
        ending = issued(tmp_path / "ca", "anna", Role.OPERATOR, life_s=3.0)
        codes = await asyncio.to_thread(resumed, siege.running.address, ending, siege.run_id)

        # Without a session to go on with, the last one ends in the handshake.
        ends = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED)
        assert codes == [*ends, grpc.StatusCode.UNAVAILABLE]
        await siege.holds()


def resumed(address: str, credentials: Credentials, run_id: str) -> list[grpc.StatusCode]:
    """Watch a run until the certificate ends, dial again with the session, and without it."""
    cache = session_cache.ssl_session_cache_lru(4)
    request = control_pb.WatchRunRequest(run_id=run_id).SerializeToString()
    codes = []
    for session in ((("grpc.ssl_session_cache", cache),), (("grpc.ssl_session_cache", cache),), ()):
        options = (
            *name_options(credentials.target_name),
            *session,
            ("grpc.use_local_subchannel_pool", 1),
        )
        trusted = channel_credentials(credentials)
        with grpc.secure_channel(address, trusted, options) as channel:
            watch = channel.unary_stream(f"{CONTROL}WatchRun")
            with pytest.raises(grpc.RpcError) as caught:
                for _ in watch(request, timeout=PATIENCE_S):
                    pass
            codes.append(caught.value.code())
    return codes
