"""Reads keys, certificates and requests; whatever is wrong with them is one error, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.utils import CryptographyDeprecationWarning

from fedfleet.errors import CertificateInvalid
from fedfleet.identity.files import MAX_BYTES

_UNREADABLE = (
    ValueError,  # which covers bytes that are not ASN.1, and dates and numbers out of range
    TypeError,  # a key that is encrypted
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,  # an error in some later release, or where warnings are errors
)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise CertificateInvalid for whatever the body finds it cannot read."""
    try:
        yield
    except _UNREADABLE as error:
        raise CertificateInvalid(f"{what} cannot be read", detail=str(error)) from error


def read_chain(pem: bytes, what: str = "the certificate") -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM text, at least one.

    Raises:
        CertificateInvalid: it is too large, or holds none, or one that cannot be read.
    """
    _check_size(pem, what)
    with reading(what):
        return tuple(x509.load_pem_x509_certificates(pem))


def read_certificate(pem: bytes, what: str = "the certificate") -> x509.Certificate:
    """The first certificate of a PEM text, in a chain the leaf; raises as ``read_chain``."""
    return read_chain(pem, what)[0]


def read_request(pem: bytes) -> x509.CertificateSigningRequest:
    """A certificate request whose sender has shown to hold its key, a P-256 one.

    Raises:
        CertificateInvalid: it is not that.
    """
    what = "the certificate request"
    _check_size(pem, what)
    with reading(what):
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        is_signed = request.is_signature_valid
    # What gRPC's TLS takes from the other side without being told; Ed25519 it refuses.
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateInvalid(f"{what} has a key of another kind than ECDSA on P-256")
    if not is_signed:
        raise CertificateInvalid(f"{what} is not signed by its own key")
    return request


def read_key(pem: bytes, what: str = "the key") -> PrivateKeyTypes:
    """A private key that is not encrypted.

    Raises:
        CertificateInvalid: it is not that.
    """
    _check_size(pem, what)
    try:
        return load_pem_private_key(pem, password=None)
    except _UNREADABLE:
        # Without the cause: it might tell of the key.
        raise CertificateInvalid(
            f"{what} cannot be read: it must be a private key in PEM, not encrypted"
        ) from None


def read_p256(pem: bytes, what: str = "the key") -> ec.EllipticCurvePrivateKey:
    """A private key on P-256; raises as ``read_key``."""
    key = read_key(pem, what)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateInvalid(f"{what} is of another kind than ECDSA on P-256")
    return key


def public_key_of(certificate: x509.Certificate, what: str) -> CertificatePublicKeyTypes:
    """Raises CertificateInvalid: a key of no known kind."""
    with reading(what):
        return certificate.public_key()


def check_pair(key: PrivateKeyTypes, certificate: x509.Certificate, what: str) -> None:
    """Raises CertificateInvalid: the certificate is for another key."""
    if public_bytes(key.public_key()) != public_bytes(public_key_of(certificate, what)):
        raise CertificateInvalid(f"{what} and its key do not belong together")


def public_bytes(key: object) -> bytes:
    """A public key in a form in which keys can be compared."""
    assert hasattr(key, "public_bytes")
    data: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return data


def key_pem(key: PrivateKeyTypes) -> bytes:
    """A private key as it is kept; not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def chain_pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as they are kept and sent."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def _check_size(pem: bytes, what: str) -> None:
    if len(pem) > MAX_BYTES:
        raise CertificateInvalid(f"{what} has {len(pem)} bytes: at most {MAX_BYTES} are read")
