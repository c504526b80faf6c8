from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from fedfleet.identity.authority import Authority
from fedfleet.identity.certificates import CLIENT, Leaf, Pair, make_leaf
from fedfleet.identity.credentials import Credentials
from fedfleet.identity.pem import chain_pem, key_pem, read_certificate, read_p256

Forge = Callable[..., Credentials]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("authority") / "ca"


@pytest.fixture(scope="session")
def authority(folder: Path) -> Authority:
    return Authority.open(folder)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("foreign") / "ca")


@pytest.fixture(scope="session")
def forge(authority: Authority, folder: Path) -> Forge:
    """Leaves as whoever holds the issuing key could make them, against all rules of our own."""
    key = read_p256((folder / "issuing.key").read_bytes())
    issuing = Pair(key, read_certificate((folder / "issuing.pem").read_bytes()))

    def make(
        *uris: str,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        subject: str = "forged",
        hosts: Sequence[str] = (),
        uses: Sequence[x509.ObjectIdentifier] = (CLIENT,),
        now_s: float | None = None,
        life_s: float = 1000.0,
    ) -> Credentials:
        key = key or ec.generate_private_key(ec.SECP256R1())
        names = [
            *map(x509.DNSName, hosts),
            *map(x509.UniformResourceIdentifier, uris or ("spiffe://fedfleet/worker/pi-7",)),
        ]
        leaf = Leaf(subject=subject, names=names, uses=uses)
        now_s = time.time() if now_s is None else now_s
        certificate = make_leaf(issuing, key.public_key(), leaf, now_s, life_s)
        chain = chain_pem(certificate, issuing.certificate)
        return Credentials(key_pem(key), chain, authority.root)

    return make
