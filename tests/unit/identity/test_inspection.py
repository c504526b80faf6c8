from __future__ import annotations

import hashlib
import shutil
import ssl
from pathlib import Path

import pytest

from fedfleet.errors import CertificateInvalid, NotFound
from fedfleet.identity.authority import Authority
from fedfleet.identity.inspection import authority_certificates
from fedfleet.identity.names import TARGET_NAME


@pytest.fixture
def own(folder: Path, authority: Authority, tmp_path: Path) -> Path:
    assert authority.root
    return Path(shutil.copytree(folder, tmp_path / "ca"))


def test_certificates_are_shown_by_their_fingerprints(own: Path, authority: Authority) -> None:
    root, issuing, enrolment = authority_certificates(own)

    der = ssl.PEM_cert_to_DER_cert(authority.root.decode())
    assert root.fingerprint == hashlib.sha256(der).hexdigest()
    assert root.subject.startswith("CN=FedFleet root ")
    assert issuing.subject.startswith("CN=FedFleet issuing ")
    assert enrolment.fingerprint.startswith(authority.pin)
    assert enrolment.names == (TARGET_NAME,)
    assert root.names == ()
    assert root.ends_at_s == issuing.ends_at_s > enrolment.starts_at_s


def test_certificates_are_shown_without_the_keys(own: Path) -> None:
    for path in own.glob("*.key"):
        path.unlink()

    assert len(authority_certificates(own)) == 3


def test_folder_without_an_authority_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no certificate authority in"):
        authority_certificates(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_damaged_certificate_is_named(own: Path) -> None:
    (own / "issuing.pem").write_bytes(b"nothing")

    with pytest.raises(CertificateInvalid, match=r"issuing\.pem"):
        authority_certificates(own)
