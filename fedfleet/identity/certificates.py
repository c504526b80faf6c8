"""Makes certificates: of the authority itself, and leaves. Nothing in them comes from a request
but its public key (RFC 5280).
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedfleet.errors import CertificateInvalid, InvalidInput

# How much slower than the authority's a holder's clock may be.
BACK_S = 300.0
# The same for who checks a server's certificate, or an authority's: a device that starts without
# the time must not be cut off whenever the coordinator starts again with a new one.
OWN_BACK_S = 86400.0
AUTHORITY_LIFE_S = 10 * 365.25 * 86400
OWN_DOMAIN = "fedfleet.internal"
MAX_HOST = 253
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH

_AUTHORITY_USE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_LEAF_USE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label is no number, so that nothing reads as half an IP address.
_HOST = re.compile(rf"(?:{_LABEL}[.])*(?![0-9]+\Z){_LABEL}")


@dataclass(frozen=True, eq=False)
class Pair:
    """A certificate and its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """What a leaf says.

    Args:
        subject: common name.
        names: alternative names.
        uses: of ``CLIENT`` and ``SERVER``.
    """

    subject: str
    names: Sequence[x509.GeneralName]
    uses: Sequence[x509.ObjectIdentifier]


def make_root(key: ec.EllipticCurvePrivateKey, now_s: float) -> x509.Certificate:
    """A certificate of an authority's own, with one authority below it."""
    name = _name(f"FedFleet root {_identifier(key.public_key()).hex()[:8]}")
    ends_at_s = now_s + AUTHORITY_LIFE_S
    builder = _builder(name, name, key.public_key(), now_s - OWN_BACK_S, ends_at_s)
    return _authority(builder, path_length=1).sign(key, SHA256())


def make_issuing(root: Pair, key: ec.EllipticCurvePrivateKey, now_s: float) -> x509.Certificate:
    """The certificate of the authority below the root, which issues leaves."""
    name = _name(f"FedFleet issuing {_identifier(key.public_key()).hex()[:8]}")
    ends_at_s = min(now_s + AUTHORITY_LIFE_S, _ends_at_s(root.certificate))
    issuer, begins_at_s = root.certificate.subject, now_s - OWN_BACK_S
    builder = _builder(name, issuer, key.public_key(), begins_at_s, ends_at_s)
    builder = builder.add_extension(_authority_identifier(root), critical=False)
    return _authority(builder, path_length=0).sign(root.key, SHA256())


def make_self_signed(key: ec.EllipticCurvePrivateKey, leaf: Leaf, now_s: float) -> x509.Certificate:
    """A leaf that vouches for itself, for as long as an authority lives."""
    name = _name(leaf.subject)
    ends_at_s = now_s + AUTHORITY_LIFE_S
    builder = _builder(name, name, key.public_key(), now_s - OWN_BACK_S, ends_at_s)
    return _leaf(builder, leaf).sign(key, SHA256())


def make_leaf(
    issuing: Pair,
    key: CertificatePublicKeyTypes,
    leaf: Leaf,
    now_s: float,
    life_s: float,
    back_s: float = BACK_S,
) -> x509.Certificate:
    """A leaf, valid from a little before now on, and never longer than its authority.

    Args:
        back_s: how long before now.

    Raises:
        CertificateInvalid: the authority's certificate has ended.
        ValueError: a life that is not above 0.
    """
    if not life_s > 0:
        raise ValueError(f"a life of {life_s} s: must be above 0")
    ends_at_s = min(now_s + life_s, _ends_at_s(issuing.certificate))
    if ends_at_s <= now_s:
        raise CertificateInvalid("the certificate authority's own certificate has ended")
    issuer = issuing.certificate.subject
    builder = _builder(_name(leaf.subject), issuer, key, now_s - back_s, ends_at_s)
    builder = builder.add_extension(_authority_identifier(issuing), critical=False)
    return _leaf(builder, leaf).sign(issuing.key, SHA256())


def host_name(name: str) -> x509.GeneralName:
    """An alternative name for an address: an IP address, or a host's name in ASCII.

    Raises:
        InvalidInput: neither; or a name under the fleet's own domain, by which workers know the
            coordinator.
    """
    with suppress(ValueError):
        address = ipaddress.ip_address(name)
        if "%" not in name:  # a link of one machine, which no certificate can name
            return x509.IPAddress(address)
    host = name.lower()
    if len(host) > MAX_HOST or not _HOST.fullmatch(host):
        raise InvalidInput(f"name {name[:80]!r}: must be an IP address or a host's name in ASCII")
    if f".{host}".endswith(f".{OWN_DOMAIN}"):
        raise InvalidInput(f"name {name[:80]!r}: names under {OWN_DOMAIN} are the fleet's own")
    return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificatePublicKeyTypes,
    begins_at_s: float,
    ends_at_s: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Whole seconds, as a certificate counts.
        .not_valid_before(_time(math.floor(begins_at_s)))
        .not_valid_after(_time(math.ceil(ends_at_s)))
        .add_extension(x509.SubjectKeyIdentifier(_identifier(key)), critical=False)
    )


def _authority(builder: x509.CertificateBuilder, *, path_length: int) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(
        _AUTHORITY_USE, critical=True
    )


def _leaf(builder: x509.CertificateBuilder, leaf: Leaf) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USE, critical=True)
        .add_extension(x509.ExtendedKeyUsage(leaf.uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(leaf.names), critical=False)
    )


def _authority_identifier(issuer: Pair) -> x509.AuthorityKeyIdentifier:
    extensions = issuer.certificate.extensions
    identifier = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _identifier(key: CertificatePublicKeyTypes) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(key).digest


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _ends_at_s(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _time(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, timezone.utc)
