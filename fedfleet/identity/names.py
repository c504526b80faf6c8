"""Who a certificate says its holder is: a role and a name, in one URI that the authority wrote."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum

from cryptography import x509

from fedfleet.errors import CertificateInvalid, InvalidInput
from fedfleet.identity.pem import read_certificate, reading
from fedfleet.types import NAME_RULE, is_name

# The name that the coordinator's certificate is for, whatever its address; issued to nobody else.
TARGET_NAME = "coordinator.fedfleet.internal"

_URI = re.compile(r"spiffe://fedfleet/([a-z]{1,32})/([^/]{1,64})")


class Role(str, Enum):
    """What a holder is to the fleet; what each may do is in ``fedfleet/rpc/access.py``."""

    WORKER = "worker"
    OPERATOR = "operator"
    OBSERVER = "observer"
    COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Identity:
    """A holder of a certificate.

    Args:
        serial: of the certificate, in lower-case hex without leading zeros.
        expires_at_s: when the certificate ends.
    """

    role: Role
    name: str
    serial: str = ""
    expires_at_s: float = math.inf

    @property
    def text(self) -> str:
        """Role and name, as in ``worker/pi-7``."""
        return f"{self.role.value}/{self.name}"


def check_name(name: str) -> str:
    """Raises InvalidInput: not a name that a worker or a person may have."""
    if not is_name(name):
        raise InvalidInput(f"name {name[:80]!r}: must be {NAME_RULE}")
    return name


def uri_of(role: Role, name: str) -> str:
    """The alternative name by which a certificate says who its holder is."""
    return f"spiffe://fedfleet/{role.value}/{check_name(name)}"


def identity_of(certificate_pem: bytes) -> Identity:
    """Who the holder of a certificate is; of a chain, of its leaf, which stands first.

    Says nothing about trust: whether the certificate is genuine, TLS has seen to.

    Raises:
        CertificateInvalid: it cannot be read, or names nobody of a fleet, or more than one.
    """
    return identity_in(read_certificate(certificate_pem))


def identity_in(certificate: x509.Certificate) -> Identity:
    """As ``identity_of``, of a certificate that was read."""
    with reading("the certificate"):
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        serial = certificate.serial_number
        expires_at_s = certificate.not_valid_after_utc.timestamp()
    role, name = _parse(uris)
    if serial <= 0:
        raise CertificateInvalid("the certificate has no serial number")
    return Identity(role, name, f"{serial:x}", expires_at_s)


def _parse(uris: list[str]) -> tuple[Role, str]:
    if len(uris) != 1:
        raise CertificateInvalid(
            f"the certificate has {len(uris)} URI names: it must have one, spiffe://fedfleet/..."
        )
    parts = _URI.fullmatch(uris[0])
    roles = {role.value: role for role in Role}
    if parts is None or parts[1] not in roles or not is_name(parts[2]):
        raise CertificateInvalid(
            f"the certificate's URI name {uris[0][:120]!r} is none of a role and a name in a fleet"
        )
    return roles[parts[1]], parts[2]
