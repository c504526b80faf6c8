"""What the certificates say, extension by extension (RFC 5280, section 4.2)."""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedfleet.identity.authority import Authority
from fedfleet.identity.certificates import AUTHORITY_LIFE_S, BACK_S, OWN_BACK_S
from fedfleet.identity.credentials import certificate_request, new_key
from fedfleet.identity.names import Role
from fedfleet.identity.pem import read_certificate, read_chain

NOW_S = float(int(time.time()))
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@pytest.fixture(scope="module")
def leaves(authority: Authority) -> dict[str, x509.Certificate]:
    """One of each kind that the authority issues."""
    request = certificate_request(new_key())
    chains = {
        role.value: authority.issue(request, role, "anna", NOW_S, 600.0).chain
        for role in (Role.WORKER, Role.OPERATOR, Role.OBSERVER)
    }
    chains["coordinator"] = authority.server_credentials(NOW_S, 600.0).chain
    chains["web server"] = authority.issue_server(["localhost"], NOW_S, 600.0).chain
    return {kind: read_certificate(chain) for kind, chain in chains.items()}


@pytest.fixture(scope="module")
def root(authority: Authority) -> x509.Certificate:
    return read_certificate(authority.root)


@pytest.fixture(scope="module")
def issuing(authority: Authority) -> x509.Certificate:
    return read_chain(authority.server_credentials(NOW_S, 600.0).chain)[1]


def test_chain_leads_to_the_root(
    leaves: dict[str, x509.Certificate], issuing: x509.Certificate, root: x509.Certificate
) -> None:
    for leaf in leaves.values():
        leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)


def test_authorities_may_sign_certificates_down_to_their_depth(
    root: x509.Certificate, issuing: x509.Certificate
) -> None:
    for certificate, depth in ((root, 1), (issuing, 0)):
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert found.critical
        assert (found.value.ca, found.value.path_length) == (True, depth)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value.key_cert_sign
        assert not usage.value.digital_signature
        lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert abs(lifetime.total_seconds() - AUTHORITY_LIFE_S - OWN_BACK_S) < 60


def test_leaves_may_sign_handshakes_and_no_certificates(
    leaves: dict[str, x509.Certificate],
) -> None:
    for leaf in leaves.values():
        found = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (found.critical, found.value.ca) == (True, False)
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
        assert (usage.critical, usage.value.digital_signature) == (True, True)
        assert not usage.value.key_cert_sign


def test_leaves_are_for_their_side_of_a_connection(leaves: dict[str, x509.Certificate]) -> None:
    uses = {
        kind: set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for kind, leaf in leaves.items()
    }

    assert uses == {
        **{kind: {CLIENT} for kind in ("worker", "operator", "observer")},
        "coordinator": {CLIENT, SERVER},
        "web server": {SERVER},
    }


def test_every_certificate_names_its_key_and_that_of_its_issuer(
    leaves: dict[str, x509.Certificate], issuing: x509.Certificate, root: x509.Certificate
) -> None:
    pairs = [*((leaf, issuing) for leaf in leaves.values()), (issuing, root)]
    for certificate, issuer in pairs:
        named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert named.key_identifier == identifier(issuer)
        assert certificate.issuer == issuer.subject
    keys = [identifier(one) for one in (*leaves.values(), issuing, root)]
    # The three roles were asked for with one key.
    assert len(set(keys)) == len(keys) - 2


def test_leaves_are_valid_from_a_little_before_their_issue(
    leaves: dict[str, x509.Certificate],
) -> None:
    for kind, leaf in leaves.items():
        # Who checks a server's is a device, whose clock may be slower than any holder's.
        back_s = OWN_BACK_S if kind in ("coordinator", "web server") else BACK_S
        assert leaf.not_valid_before_utc.timestamp() == NOW_S - back_s
        assert leaf.not_valid_after_utc.timestamp() == NOW_S + 600


def test_serials_are_large_positive_random_numbers(authority: Authority) -> None:
    request = certificate_request(new_key())

    serials = {
        int(authority.issue(request, Role.WORKER, "pi-7", NOW_S, 60.0).identity.serial, 16)
        for _ in range(200)
    }

    assert len(serials) == 200
    assert 2**150 < max(serials) < 2**159  # 20 bytes with a sign


def test_keys_are_on_p256(
    leaves: dict[str, x509.Certificate], issuing: x509.Certificate, root: x509.Certificate
) -> None:
    for certificate in (*leaves.values(), issuing, root):
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)


def identifier(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
