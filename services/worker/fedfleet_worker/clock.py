"""Says so when this device's clock is why TLS fails: the error of the handshake does not."""

from __future__ import annotations

import asyncio
import ssl
import time

from fedfleet.errors import CertificateInvalid, SettingInvalid
from fedfleet.identity.credentials import Credentials
from fedfleet.rpc.address import split_address

LOOK_S = 5.0


def clock_fault(certificate_pem: bytes, now_s: float) -> str:
    """Why a certificate does not count by this device's clock; empty where it does.

    Raises:
        CertificateInvalid: it cannot be read.
    """
    certificate = Credentials(b"", certificate_pem, b"")
    begins_at_s, ends_at_s = certificate.begins_at_s, certificate.expires_at_s
    if begins_at_s <= now_s < ends_at_s:
        return ""
    which, at_s = ("begins", begins_at_s) if now_s < begins_at_s else ("ended", ends_at_s)
    return (
        f"the certificate {which} at {_utc(at_s)}, and this device's clock says {_utc(now_s)}: if "
        "that is wrong, set it, and keep it right (NTP)"
    )


async def shown_by(address: str) -> bytes:
    """The certificate that whoever answers at an address shows, in PEM; empty where nobody does.

    Nobody has vouched for it: good for a hint, and for nothing else.
    """
    try:
        place = split_address(address)
        shown = await asyncio.to_thread(ssl.get_server_certificate, place, timeout=LOOK_S)
    except (OSError, SettingInvalid):
        return b""
    return shown.encode()


async def hint_of(address: str, own: Credentials | None) -> str:
    """What about the clocks may keep this worker from a coordinator; empty where nothing does."""
    for whose, certificate in (
        ("this worker's certificate", own.chain if own else b""),
        ("the coordinator's certificate", await shown_by(address)),
    ):
        try:
            fault = clock_fault(certificate, time.time()) if certificate else ""
        except CertificateInvalid:
            continue
        if fault:
            return fault.replace("the certificate", whose, 1)
    return ""


def _utc(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_s))
