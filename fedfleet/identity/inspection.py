"""What people want to see of an authority; reads public files only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from fedfleet.errors import NotFound
from fedfleet.identity.authority import ROOT_FILE
from fedfleet.identity.files import read_public
from fedfleet.identity.pem import read_certificate, reading

FILES = (ROOT_FILE, "issuing.pem", "enrolment.pem")


@dataclass(frozen=True, kw_only=True)
class CertificateView:
    """A certificate as people compare it.

    Args:
        file: in the authority's folder.
        subject: RFC 4514.
        names: its alternative names.
        fingerprint: SHA-256 in hex.
    """

    file: str
    subject: str
    names: tuple[str, ...]
    fingerprint: str
    starts_at_s: float
    ends_at_s: float


def authority_certificates(folder: Path) -> list[CertificateView]:
    """The certificates of an authority: root, issuing, enrolment.

    Raises:
        NotFound: there is no authority in the folder.
        CertificateInvalid: a file is damaged.
        StoreUnavailable: a file cannot be read.
    """
    views = []
    for file in FILES:
        try:
            data = read_public(folder / file)
        except NotFound:
            raise NotFound(
                f"there is no certificate authority in {folder}: the coordinator makes one when it "
                "starts, in the folder that FEDFLEET_CA_DIR names"
            ) from None
        views.append(view_of(file, data))
    return views


def view_of(file: str, pem: bytes) -> CertificateView:
    """The first certificate of a PEM text; raises CertificateInvalid."""
    certificate = read_certificate(pem, file)
    with reading(file):
        return CertificateView(
            file=file,
            subject=certificate.subject.rfc4514_string(),
            names=_names(certificate),
            fingerprint=certificate.fingerprint(SHA256()).hex(),
            starts_at_s=certificate.not_valid_before_utc.timestamp(),
            ends_at_s=certificate.not_valid_after_utc.timestamp(),
        )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)
