"""Tokens that were used, guessed, made for others, or are over; and requests that ask for more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
import pytest
from attacks.siege import HONEST, MALLORY, Siege, besieged, refused
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from harness import PATIENCE_S

from fedfleet.errors import CertificateInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials, certificate_request, new_key
from fedfleet.identity.names import TARGET_NAME, Role, identity_of, uri_of
from fedfleet.identity.tokens import new_token
from fedfleet.rpc.access import AccessInterceptor, Door
from fedfleet.rpc.enrolment import enrol
from fedfleet.rpc.gate import Gate
from fedfleet.rpc.server import Context, RpcServer
from fedfleet.rpc.status import CODE_KEY
from fedfleet.rpc.tls import name_options, server_credentials
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import enrollment_service_pb2 as pb
from fedfleet.v1 import enrollment_service_pb2_grpc as pb_grpc
from fedfleet_coordinator.enrollment import FAILURES
from fedfleet_coordinator.issuing import NOT_TAKEN

# Where the parts of a token lie: fft_<id>_<secret>_<pin>.
ID, SECRET, PIN = slice(4, 20), slice(21, 61), slice(62, 94)


class Enrolling:
    """A stranger at the enrolment port, with some connections that it takes turns with."""

    def __init__(self, channels: list[grpc.aio.Channel]) -> None:
        self._stubs = cycle([pb_grpc.EnrollmentServiceStub(channel) for channel in channels])

    async def __call__(self, token: str, name: str = "pi-8", request: bytes = b"") -> Any:
        request = request or certificate_request(new_key())
        asked = pb.EnrollRequest(worker_id=name, token=token, certificate_request=request)
        return await next(self._stubs).Enroll(asked, timeout=PATIENCE_S)


@asynccontextmanager
async def stranger(siege: Siege, connections: int = 1) -> AsyncIterator[Enrolling]:
    """It trusts who answers."""
    shown = Authority.open(siege.folder / "ca").enrolment.chain
    options = (*name_options(TARGET_NAME), ("grpc.use_local_subchannel_pool", 1))
    async with AsyncExitStack() as stack:
        channels = []
        for _ in range(connections):
            channel = grpc.aio.secure_channel(
                siege.running.enrol_address, grpc.ssl_channel_credentials(shown), options
            )
            channels.append(await stack.enter_async_context(channel))
            await channel.channel_ready()
        yield Enrolling(channels)


async def made(siege: Siege, name: str = "pi-8", valid_s: float = 0.0) -> str:
    """A token whose secret, and whose hash, must show up nowhere."""
    token = await siege.running.token(name, valid_s=valid_s)
    siege.secrets.append(token[SECRET])
    return token


def workers_known(siege: Siege) -> set[str]:
    """Names that certificates were issued to."""
    return {one.name for one in siege.running.store.access.certificates() if one.role == "worker"}


async def test_every_token_that_is_none_gets_the_same_answer(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege, stranger(siege) as enroll:
        good, over = await made(siege), await made(siege, valid_s=1e-3)
        used = await made(siege, "pi-9")
        await enroll(used, "pi-9")
        flipped = good[:60] + ("0" if good[60] != "0" else "1") + good[61:]
        wrong = {
            "used": (used, "pi-9"),
            "used for another": (used, "pi-8"),
            "for another": (good, "pi-10"),
            "for another case": (good, "PI-8"),
            "for nobody": (good, ""),
            "over": (over, "pi-8"),
            "last digit guessed": (flipped, "pi-8"),
            "secret of none": (good[:21] + "0" * 40 + good[61:], "pi-8"),
            "secret of another": (good[:21] + over[SECRET] + good[61:], "pi-8"),
            "unknown": (new_token("0" * 32).text, "pi-8"),
            "no token": ("../../etc/passwd\n\x00\u202e", "pi-8"),
            "empty": ("", "pi-8"),
            "long": ("f" * 256, "pi-8"),
        }
        answers = set()
        for token, name in wrong.values():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await enroll(token, name)
            metadata = tuple((key, value) for key, value in caught.value.trailing_metadata())
            answers.add((caught.value.code(), caught.value.details(), metadata))

        told = (grpc.StatusCode.UNAUTHENTICATED, NOT_TAKEN, ((CODE_KEY, "TOKEN_INVALID"),))
        assert answers == {told}
        assert workers_known(siege) == {HONEST, MALLORY, "pi-9"}
        # None of this has used the good one up.
        assert identity_of((await enroll(good)).certificate_chain).text == "worker/pi-8"
        await siege.holds()


async def test_token_that_is_used_many_times_at_once_is_good_for_one(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege, stranger(siege, 16) as enroll:
        token = await made(siege)

        answers = await asyncio.gather(*(enroll(token) for _ in range(16)), return_exceptions=True)

        lost = [one for one in answers if isinstance(one, grpc.aio.AioRpcError)]
        assert len(lost) == 15
        assert {one.details() for one in lost} == {NOT_TAKEN}
        of_name = [one for one in siege.running.store.access.certificates() if one.name == "pi-8"]
        assert len(of_name) == 1
        assert siege.running.store.access.tokens() == []
        await siege.holds()


async def test_guesses_are_few_also_when_they_come_at_once(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege, stranger(siege, 20) as enroll:
        good = await made(siege)
        guesses = [f"{good[:21]}{number:040x}{good[61:]}" for number in range(5 * FAILURES)]

        answers = await asyncio.gather(*map(enroll, guesses), return_exceptions=True)

        codes = [dict(one.trailing_metadata())[CODE_KEY] for one in answers]
        assert set(codes) == {"TOKEN_INVALID", "LIMIT_EXCEEDED"}
        # One more every ten seconds, should this machine be as slow as that.
        assert FAILURES <= codes.count("TOKEN_INVALID") <= FAILURES + 1
        error = await refused("LIMIT_EXCEEDED", enroll(guesses[0]))
        assert "try again in" in error.message
        # One bad device keeps nobody out who shares its address, and has not used a token up.
        assert identity_of((await enroll(good)).certificate_chain).text == "worker/pi-8"
        await siege.holds()


async def test_request_says_nothing_but_its_key(tmp_path: Path) -> None:
    """A request for the coordinator's own name, an operator's role and an authority's powers."""
    async with besieged(tmp_path) as siege, stranger(siege) as enroll:
        key = load_pem_private_key(new_key(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        names = [
            x509.UniformResourceIdentifier(uri_of(Role.OPERATOR, "local")),
            x509.DNSName(TARGET_NAME),
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")])
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(subject)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, SHA256())
        )

        response = await enroll(await made(siege), "pi-8", request.public_bytes(Encoding.PEM))

        issued = x509.load_pem_x509_certificate(response.certificate_chain)
        names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [name.value for name in names] == ["spiffe://fedfleet/worker/pi-8"]
        assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert issued.subject.rfc4514_string() == "CN=pi-8"
        await siege.holds()


@pytest.mark.parametrize("request_pem", ["nothing", "RSA", "unsigned", "certificate", "huge"])
async def test_request_that_cannot_be_signed_does_not_use_the_token_up(
    request_pem: str, tmp_path: Path
) -> None:
    async with besieged(tmp_path) as siege, stranger(siege) as enroll:
        token = await made(siege)
        code = "LIMIT_EXCEEDED" if request_pem == "huge" else "CERTIFICATE_INVALID"

        await refused(code, enroll(token, "pi-8", bad_request(request_pem)))

        assert workers_known(siege) == {HONEST, MALLORY}
        assert identity_of((await enroll(token)).certificate_chain).name == "pi-8"
        await siege.holds()


def bad_request(kind: str) -> bytes:
    good = certificate_request(new_key())
    if kind == "RSA":
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        key = rsa.generate_private_key(65537, 2048)
        return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
    if kind == "unsigned":  # another key's signature
        spoiled = bytearray(x509.load_pem_x509_csr(good).public_bytes(Encoding.DER))
        spoiled[-1] ^= 1
        return x509.load_der_x509_csr(bytes(spoiled)).public_bytes(Encoding.PEM)
    wrong = {"nothing": b"\x00\n", "huge": good * 100}
    return wrong.get(kind, good.replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"))


async def test_secrets_are_in_no_file_of_the_store(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        token = await made(siege)
        request = control_pb.CreateKeyRequest(name="shop", scopes=["predict"])
        key = (await siege.running.control.CreateKey(request, timeout=PATIENCE_S)).key
        await siege.running.enrolled("pi-9")

        kept = database(tmp_path)
        assert token[ID].encode() in kept  # so that it is the right file
        for secret in (token[SECRET], key.rpartition("_")[2], token):
            assert secret.encode() not in kept
        siege.secrets.append(key.rpartition("_")[2])
        await siege.holds()


def database(folder: Path) -> bytes:
    """All that SQLite has of a store."""
    return b"".join(path.read_bytes() for path in folder.glob("*.db*"))


# Somebody else at the enrolment port's address


@dataclass
class Thief(pb_grpc.EnrollmentServiceServicer):
    """Takes what it is told."""

    told: list[pb.EnrollRequest] = field(default_factory=list)

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        self.told.append(request)
        return pb.EnrollResponse()


async def test_token_is_not_told_to_who_answers_in_the_coordinators_place(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        token, thief = await made(siege), Thief()
        other: Credentials = Authority.open(tmp_path / "other").enrolment
        server = RpcServer(
            access=AccessInterceptor(Gate(), Door.OPEN),
            credentials=server_credentials(lambda: other, None),
        )
        pb_grpc.add_EnrollmentServiceServicer_to_server(thief, server.grpc)
        port = await server.start("127.0.0.1", 0, ())
        try:
            with pytest.raises(CertificateInvalid, match="not the coordinator that made"):
                await enrol(f"127.0.0.1:{port}", token, "pi-8")
        finally:
            await server.stop(0)

        assert thief.told == []
        await siege.holds()


async def test_who_was_told_a_token_may_not_use_it_for_long(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege, stranger(siege) as enroll:
        token = await made(siege, valid_s=0.5)
        ends_at_s = siege.running.store.access.tokens()[0].expires_at_s
        while time.time() < ends_at_s:
            await siege.running.show(siege.run_id)
        await refused("TOKEN_INVALID", enroll(token))
        await siege.holds()
