"""What a process shows to others and what it trusts, kept in one file: never half of the old and
half of the new.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from fedfleet.errors import CertificateInvalid, NotFound
from fedfleet.identity.certificates import BACK_S, OWN_BACK_S
from fedfleet.identity.files import file_errors, locked, read_private, read_public, write_private
from fedfleet.identity.names import TARGET_NAME, Identity, Role, identity_of
from fedfleet.identity.pem import (
    check_pair,
    key_pem,
    read_certificate,
    read_chain,
    read_key,
    read_p256,
    reading,
)

FILE = "credentials.pem"
# A certificate is renewed when this part of its life is over, give or take this part of that.
RENEW_AT = 2 / 3
RENEW_JITTER = 0.1

_FORM = re.compile(
    rb"FedFleet credentials; target name: ([A-Za-z0-9.-]*)\n"
    rb"(-----BEGIN [A-Z ]*PRIVATE KEY-----\n.*?-----END [A-Z ]*PRIVATE KEY-----\n)"
    rb"(.*)Trusted:\n(.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Credentials:
    """A key, its certificate, and whom its holder trusts; all in PEM.

    Args:
        key: private, not encrypted.
        chain: the key's certificate first, then that of its issuer.
        root: certificates of the authorities that are trusted.
        target_name: name that the other side's certificate must have whatever its address; where
            this is empty, it must be for the address that was dialled.
    """

    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    root: bytes = field(repr=False)
    target_name: str = TARGET_NAME

    @property
    def identity(self) -> Identity:
        """Raises CertificateInvalid: the certificate is not one of a fleet's."""
        return identity_of(self.chain)

    @property
    def issued_at_s(self) -> float:
        """When the certificate was issued, in seconds since the epoch."""
        begins_at_s, expires_at_s = self._life()
        # The authority's own are dated back; one of another authority may live shorter than that.
        issued_at_s = begins_at_s + (OWN_BACK_S if self._is_coordinators() else BACK_S)
        return issued_at_s if issued_at_s < expires_at_s else begins_at_s

    @property
    def begins_at_s(self) -> float:
        """When the certificate begins to count, in seconds since the epoch."""
        return self._life()[0]

    @property
    def expires_at_s(self) -> float:
        """When the certificate ends, in seconds since the epoch."""
        return self._life()[1]

    def renew_at_s(self, jitter: float) -> float:
        """When to ask for the next certificate, in seconds since the epoch.

        Args:
            jitter: drawn from -1 to 1, so that a fleet does not ask all at once.
        """
        issued_at_s = self.issued_at_s
        life_s = self.expires_at_s - issued_at_s
        return issued_at_s + life_s * RENEW_AT * (1 + RENEW_JITTER * jitter)

    def _is_coordinators(self) -> bool:
        try:
            return self.identity.role is Role.COORDINATOR
        except CertificateInvalid:  # nobody's of a fleet
            return False

    def _life(self) -> tuple[float, float]:
        leaf = read_certificate(self.chain)
        with reading("the certificate"):
            return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()


def new_key() -> bytes:
    """A private key, in PEM."""
    return key_pem(ec.generate_private_key(ec.SECP256R1()))


def certificate_request(key: bytes) -> bytes:
    """A request for a certificate of a key, in PEM. It names nobody: the authority does.

    Raises:
        CertificateInvalid: not a private key on P-256.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(read_p256(key), SHA256()).public_bytes(Encoding.PEM)


def save_credentials(folder: Path, credentials: Credentials) -> None:
    """Replace what a folder holds; a crash leaves the old or the new, whole.

    The file is at the same time what a web server takes for its key and its chain of certificates.

    Raises:
        CertificateInvalid: key and certificate do not belong together.
        StoreFull, StoreUnavailable: nothing was changed.
    """
    data = (
        b"FedFleet credentials; target name: %b\n" % credentials.target_name.encode("ascii")
        + _ended(credentials.key)
        + _ended(credentials.chain)
        + b"Trusted:\n"
        + _ended(credentials.root)
    )
    if _parse(data) != credentials:
        raise CertificateInvalid("these credentials hold more than keys and certificates in PEM")
    with locked(folder):
        write_private(folder / FILE, data)


def load_credentials(folder: Path) -> Credentials:
    """What ``save_credentials`` wrote.

    Raises:
        NotFound: nothing was saved in the folder.
        CertificateInvalid: others may read it, or it is damaged.
        StoreUnavailable: it cannot be read.
    """
    path = folder / FILE
    try:
        data = read_private(path)
    except NotFound:
        raise NotFound(f"there are no credentials in {folder}: enrol first") from None
    try:
        return _parse(data)
    except CertificateInvalid as error:
        raise CertificateInvalid(f"{path}: {error.message}", detail=error.detail) from None


def is_of_another_account(folder: Path) -> bool:
    """Whether what a folder holds belongs to somebody else than this process runs as.

    Raises:
        NotFound: it holds nothing.
        StoreUnavailable: that cannot be seen.
    """
    with file_errors(folder):
        try:
            return (folder / FILE).stat().st_uid != os.geteuid()
        except FileNotFoundError:
            raise NotFound(f"there are no credentials in {folder}: enrol first") from None


def load_external(certificate: Path, key: Path, root: Path) -> Credentials:
    """Credentials that another authority has issued, for the address of whoever shows them.

    Args:
        certificate: file with the chain, the key's certificate first.
        root: file with the certificates of the authorities that are trusted.

    Raises:
        NotFound: a file is not there.
        CertificateInvalid: others may read the key, or the files do not belong together.
        StoreUnavailable: a file cannot be read.
    """
    credentials = Credentials(read_private(key), read_public(certificate), read_public(root), "")
    check_pair(
        read_key(credentials.key, str(key)),
        read_certificate(credentials.chain, str(certificate)),
        str(certificate),
    )
    read_chain(credentials.root, str(root))
    return credentials


def _ended(pem: bytes) -> bytes:
    return pem if pem.endswith(b"\n") else pem + b"\n"


def _parse(data: bytes) -> Credentials:
    parts = _FORM.fullmatch(data)
    if parts is None:
        raise CertificateInvalid("these are no credentials, or they were cut off")
    credentials = Credentials(parts[2], parts[3], parts[4], parts[1].decode("ascii"))
    check_pair(read_key(credentials.key), read_certificate(credentials.chain), "the certificate")
    read_chain(credentials.root, "the root certificate")
    return credentials
