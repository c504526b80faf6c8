"""How a holder comes by its certificate, and by the next one: keys are made here and stay here."""

from __future__ import annotations

import asyncio
import hmac
import ssl
import time

import grpc

from fedfleet.errors import CertificateInvalid, Unavailable
from fedfleet.identity.credentials import Credentials, certificate_request, new_key
from fedfleet.identity.names import TARGET_NAME
from fedfleet.identity.tokens import pin_of, split_token
from fedfleet.rpc.address import split_address
from fedfleet.rpc.channel import OPTIONS, open_channel
from fedfleet.rpc.patience import within
from fedfleet.rpc.status import error_of
from fedfleet.rpc.tls import Options, name_options
from fedfleet.v1 import enrollment_service_pb2 as pb
from fedfleet.v1.enrollment_service_pb2_grpc import EnrollmentServiceStub

CALL_S = 20.0


async def enrol(address: str, token: str, name: str) -> Credentials:
    """Trade a token for credentials, with a key that is made here.

    Args:
        address: ``HOST:PORT`` of the coordinator's enrolment port.

    Raises:
        TokenInvalid: it is no token, or not one for this name, or it was used or is over.
        CertificateInvalid: who answers is not the coordinator that made the token; nothing was
            sent to it. Or it answered with a certificate that is not for us.
        Unavailable, TimedOut, LimitExceeded: try again later.
    """
    _, _, pin = split_token(token)
    shown = await _shown_at(address)
    if not hmac.compare_digest(pin_of(shown), pin):
        raise CertificateInvalid(
            f"who answers at {address} is not the coordinator that made this token: check the "
            "address of its enrolment port"
        )
    key = new_key()
    request = pb.EnrollRequest(
        worker_id=name, token=token, certificate_request=certificate_request(key)
    )
    async with _open(address, shown) as channel:
        try:
            response = await EnrollmentServiceStub(channel).Enroll(request, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
    made = Credentials(key, response.certificate_chain, response.root_certificate)
    if made.identity.name != name:
        raise CertificateInvalid(f"the certificate is for {made.identity.text}, not for {name}")
    return made


async def renew(
    address: str,
    enrol_address: str,
    credentials: Credentials,
    *,
    has_ended: bool | None = None,
) -> Credentials:
    """Replace a certificate; one that has ended, where that is not too long ago, by its key.

    Args:
        address: ``HOST:PORT`` of the coordinator.
        enrol_address: of its enrolment port, which is dialled for a certificate that has ended.
        has_ended: whether it has; None asks this machine's clock, which may be wrong.

    Raises:
        CertificateInvalid: it ended too long ago, or cannot be read: enrol again.
        Unauthenticated: it was revoked.
        Unavailable, TimedOut, LimitExceeded: try again later. A coordinator hangs up on a
            certificate that it does not take.
    """
    if has_ended is None:
        has_ended = credentials.identity.expires_at_s <= time.time()
    if not has_ended:
        key = new_key()
        request = pb.RenewRequest(certificate_request=certificate_request(key))
        channel = open_channel(address, own_connection=True, credentials=credentials)
        return await _renew(channel, request, key, credentials)
    key = credentials.key  # which says who we are
    request = pb.RenewRequest(
        certificate_request=certificate_request(key), ended_certificate=credentials.chain
    )
    channel = _open(enrol_address, await _shown_at(enrol_address))
    renewed = await _renew(channel, request, key, credentials)
    # Nobody vouched for who answered: only what opens the coordinator's door is a certificate.
    async with open_channel(address, own_connection=True, credentials=renewed) as door:
        try:
            await within(CALL_S, door.channel_ready())
        except asyncio.TimeoutError as error:
            raise Unavailable(
                f"no coordinator at {address} takes the renewed certificate; is it running?"
            ) from error
    return renewed


async def _renew(
    channel: grpc.aio.Channel, request: pb.RenewRequest, key: bytes, old: Credentials
) -> Credentials:
    async with channel:
        try:
            response = await EnrollmentServiceStub(channel).Renew(request, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
    renewed = Credentials(key, response.certificate_chain, old.root, old.target_name)
    if renewed.identity.text != old.identity.text:
        raise CertificateInvalid(f"the new certificate is for {renewed.identity.text}")
    return renewed


async def _shown_at(address: str) -> bytes:
    """The certificate that a port shows, in PEM; nobody has vouched for it."""
    place = split_address(address)
    loop = asyncio.get_running_loop()
    asked = loop.run_in_executor(None, lambda: ssl.get_server_certificate(place, timeout=CALL_S))
    try:
        return (await within(CALL_S, asked)).encode()
    except (OSError, asyncio.TimeoutError) as error:
        raise Unavailable(
            f"no coordinator answers at {address} to enrol with; is it running?", detail=str(error)
        ) from error


def _open(address: str, shown: bytes) -> grpc.aio.Channel:
    """A channel to whoever holds the key of exactly this certificate."""
    options: Options = (
        *OPTIONS,
        *name_options(TARGET_NAME),
        ("grpc.use_local_subchannel_pool", 1),
    )
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(shown), options=options)
