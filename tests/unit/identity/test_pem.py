from __future__ import annotations

from base64 import encodebytes

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import CertificateInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import certificate_request, new_key
from fedfleet.identity.pem import (
    check_pair,
    key_pem,
    read_certificate,
    read_chain,
    read_key,
    read_p256,
    read_request,
)

KEY = new_key()
REQUEST = certificate_request(KEY)
OTHER_KEYS: tuple[CertificateIssuerPrivateKeyTypes, ...] = (
    ed25519.Ed25519PrivateKey.generate(),  # what gRPC refuses: see test_handshakes.py
    ec.generate_private_key(ec.SECP384R1()),
    ec.generate_private_key(ec.SECP256K1()),
    rsa.generate_private_key(65537, 2048),
)


def request_by(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.PEM)


def test_request_is_read_with_its_key() -> None:
    assert read_request(REQUEST).public_key() == read_p256(KEY).public_key()


@pytest.mark.parametrize("key", OTHER_KEYS)
def test_request_with_a_key_of_another_kind_is_refused(
    key: CertificateIssuerPrivateKeyTypes,
) -> None:
    with pytest.raises(CertificateInvalid, match="another kind"):
        read_request(request_by(key))


def test_request_for_the_key_of_another_is_refused() -> None:
    """Who has seen a public key cannot ask for a certificate of it."""
    mine, stolen = (
        x509.load_pem_x509_csr(one) for one in (REQUEST, certificate_request(new_key()))
    )
    forged = mine.public_bytes(Encoding.DER).replace(point(mine), point(stolen))
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n%b-----END CERTIFICATE REQUEST-----\n"

    with pytest.raises(CertificateInvalid, match="not signed by its own key"):
        read_request(pem % encodebytes(forged))


def point(request: x509.CertificateSigningRequest) -> bytes:
    """The bytes of a request's public key that are not the same in all of them."""
    key = request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


@given(pem=st.binary(max_size=300))
def test_noise_is_refused_in_one_line(pem: bytes) -> None:
    for read in (read_request, read_certificate, read_key):
        with pytest.raises(CertificateInvalid) as caught:
            read(pem)
        assert caught.value.message.isprintable()


def test_oversized_texts_are_refused_by_their_size(authority: Authority) -> None:
    for read, pem in ((read_request, REQUEST), (read_chain, authority.root), (read_key, KEY)):
        with pytest.raises(CertificateInvalid, match="at most 65536 are read"):
            read(pem + bytes(65536))


def test_request_is_not_a_certificate_nor_a_key(authority: Authority) -> None:
    for read, pem in ((read_request, authority.root), (read_chain, REQUEST), (read_key, REQUEST)):
        with pytest.raises(CertificateInvalid, match="cannot be read"):
            read(pem)


def test_encrypted_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    locked = BestAvailableEncryption(b"password")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)

    with pytest.raises(CertificateInvalid, match="not encrypted"):
        read_key(pem)


def test_error_of_a_damaged_key_holds_nothing_of_it() -> None:
    with pytest.raises(CertificateInvalid) as caught:
        read_key(KEY.replace(b"M", b"N", 1))

    assert caught.value.__cause__ is None
    assert not caught.value.detail


@pytest.mark.parametrize("key", OTHER_KEYS)
def test_p256_key_is_no_other(key: CertificateIssuerPrivateKeyTypes) -> None:
    with pytest.raises(CertificateInvalid, match="another kind"):
        read_p256(key_pem(key))


def test_pair_of_two_keys_is_refused(authority: Authority) -> None:
    certificate = read_certificate(authority.enrolment.chain)

    check_pair(read_key(authority.enrolment.key), certificate, "it")
    with pytest.raises(CertificateInvalid, match="it and its key do not belong together"):
        check_pair(read_key(KEY), certificate, "it")
