"""Secrets that are shown once: tokens to enrol with, keys for the REST interface.

A token reads ``fft_<id>_<secret>_<pin>``, a key ``flk_<id>_<secret>``, all parts in lower-case hex.
Only the SHA-256 of a secret is kept. Secrets are random numbers of 160 bits, so that a plain hash
of one can neither be searched for nor looked up; the id, which is no secret, finds the record.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256

from fedfleet.errors import InvalidInput, TokenInvalid
from fedfleet.identity.pem import read_certificate

ID_BYTES = 8
SECRET_BYTES = 20
PIN_DIGITS = 32

_TOKEN = re.compile(r"fft_([0-9a-f]{16})_([0-9a-f]{40})_([0-9a-f]{32})")
_KEY = re.compile(r"flk_([0-9a-f]{16})_([0-9a-f]{40})")
_PIN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class NewSecret:
    """A secret that was made.

    Args:
        text: what is shown once.
        secret_hash: SHA-256 in hex, which is kept.
    """

    text: str = field(repr=False)
    id: str
    secret_hash: str


def new_token(pin: str) -> NewSecret:
    """A token to enrol with once.

    Args:
        pin: ``pin_of`` the certificate that the enrolment port shows.
    """
    if not _PIN.fullmatch(pin):
        raise InvalidInput(f"pin {pin[:80]!r}: must be {PIN_DIGITS} hexadecimal digits")
    return _new("fft", f"_{pin}")


def split_token(text: str) -> tuple[str, str, str]:
    """Id, secret and pin of a token.

    Raises:
        TokenInvalid: not a token; its text is not told.
    """
    parts = _TOKEN.fullmatch(text.strip())
    if parts is None:
        raise TokenInvalid("this is not a token: it must read fft_..._..._..., whole, in one line")
    return parts[1], parts[2], parts[3]


def new_key() -> NewSecret:
    """A key for the REST interface."""
    return _new("flk")


def split_key(text: str) -> tuple[str, str]:
    """Id and secret of a key; raises TokenInvalid."""
    parts = _KEY.fullmatch(text.strip())
    if parts is None:
        raise TokenInvalid("this is not a key: it must read flk_..._..., whole, in one line")
    return parts[1], parts[2]


def matches(secret: str, secret_hash: str) -> bool:
    """Whether a secret is the one of a hash; takes as long for a wrong one, however wrong."""
    return hmac.compare_digest(_hash(secret).encode(), secret_hash.encode("utf-8", "replace"))


def pin_of(certificate_pem: bytes) -> str:
    """The first half of the SHA-256 of a certificate, in hex; raises CertificateInvalid."""
    return read_certificate(certificate_pem).fingerprint(SHA256()).hex()[:PIN_DIGITS]


def _new(kind: str, end: str = "") -> NewSecret:
    name, secret = secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES)
    return NewSecret(f"{kind}_{name}_{secret}{end}", name, _hash(secret))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
