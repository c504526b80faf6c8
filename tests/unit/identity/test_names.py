from __future__ import annotations

import string
import time
from base64 import encodebytes
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fedfleet.errors import CertificateInvalid, FedFleetError, InvalidInput
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials, certificate_request, new_key
from fedfleet.identity.names import Identity, Role, check_name, identity_of, uri_of
from fedfleet.identity.pem import read_certificate
from fedfleet.types import is_name
from fedfleet.wire.limits import check_worker_id

Forge = Callable[..., Credentials]

ROLES = st.sampled_from([Role.WORKER, Role.OPERATOR, Role.OBSERVER])
NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(is_name)
# One's own URI with something put in, taken out or exchanged, and text that only looks like one.
NEARLY = st.builds(
    lambda uri, at, piece, cut: uri[: at % len(uri)] + piece + uri[at % len(uri) + cut :],
    st.builds(uri_of, st.sampled_from(Role), NAMES),
    st.integers(0, 200),
    st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=3),
    st.integers(0, 2),
)


KEY = new_key()


def as_pem(der: bytes) -> bytes:
    text = encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n%b-----END CERTIFICATE-----\n" % text


@pytest.fixture(scope="module")
def der(forge: Forge) -> bytes:
    """A good certificate."""
    return read_certificate(forge().chain).public_bytes(Encoding.DER)


def answer(call: Callable[[], object]) -> object:
    """What a call returns, or the kind of its error."""
    try:
        return call()
    except FedFleetError as error:
        return type(error)


@given(role=ROLES, name=NAMES)
def test_identity_of_is_what_was_issued(authority: Authority, role: Role, name: str) -> None:
    now_s = time.time()

    issued = authority.issue(certificate_request(KEY), role, name, now_s, 60.0)

    assert identity_of(issued.chain) == issued.identity
    assert issued.identity.text == f"{role.value}/{name}"
    assert now_s + 60 <= issued.identity.expires_at_s < now_s + 61
    assert int(issued.identity.serial, 16) == read_certificate(issued.chain).serial_number
    assert issued.identity.serial == issued.identity.serial.lower().lstrip("0")


@given(uri=st.one_of(NEARLY, st.text(st.characters(min_codepoint=1, max_codepoint=126))))
def test_identity_of_any_uri_is_none_or_the_one_that_writes_it(forge: Forge, uri: str) -> None:
    assume(uri)
    chain = forge(uri).chain

    found = answer(lambda: identity_of(chain))

    assert found is CertificateInvalid or (
        isinstance(found, Identity) and uri_of(found.role, found.name) == uri
    )


@pytest.mark.parametrize(
    "uris",
    [
        ("spiffe://fedfleet/worker/pi-7", "spiffe://fedfleet/operator/anna"),
        ("spiffe://fedfleet/worker/pi-7", "https://example.org/"),
        ("spiffe://other/worker/pi-7",),
        ("spiffe://fedfleet/root/pi-7",),
        ("spiffe://fedfleet/worker/pi-7/",),
        ("spiffe://fedfleet/worker/",),
        ("spiffe://fedfleet/worker/a%2fb",),
        ("spiffe://fedfleet/worker/../operator/anna",),
        ("SPIFFE://fedfleet/worker/pi-7",),
        ("spiffe://fedfleet/Worker/pi-7",),
        ("spiffe://fedfleet/worker/pi-7\n",),
        ("spiffe://fedfleet/worker/" + 65 * "a",),
    ],
)
def test_identity_of_other_uris_is_refused_in_one_line(forge: Forge, uris: tuple[str]) -> None:
    with pytest.raises(CertificateInvalid) as caught:
        identity_of(forge(*uris).chain)

    assert caught.value.message.isprintable()


def test_identity_of_a_certificate_for_a_host_is_refused(authority: Authority) -> None:
    server = authority.issue_server(["localhost"], time.time(), 60.0)

    with pytest.raises(CertificateInvalid, match="0 URI names"):
        identity_of(server.chain)


def test_identity_of_a_certificate_without_names_is_refused(authority: Authority) -> None:
    with pytest.raises(CertificateInvalid, match="0 URI names"):
        identity_of(authority.root)


def test_identity_of_a_chain_is_that_of_its_first(forge: Forge) -> None:
    first, second = forge().chain, forge("spiffe://fedfleet/operator/anna").chain

    assert identity_of(first + second).text == "worker/pi-7"


@given(data=st.data())
def test_identity_of_altered_certificates_is_an_error_of_ours_or_a_name(
    der: bytes, data: st.DataObject
) -> None:
    altered = bytearray(der)
    for _ in range(data.draw(st.integers(1, 3))):
        altered[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))

    found = answer(lambda: identity_of(as_pem(bytes(altered))))

    assert found is CertificateInvalid or isinstance(found, Identity)


@given(pem=st.one_of(st.binary(max_size=300), st.binary(max_size=99).map(as_pem)))
def test_identity_of_noise_is_refused(pem: bytes) -> None:
    with pytest.raises(CertificateInvalid, match="cannot be read"):
        identity_of(pem)


def test_identity_of_an_oversized_text_is_refused_before_it_is_read(forge: Forge) -> None:
    with pytest.raises(CertificateInvalid, match="at most 65536"):
        identity_of(forge().chain + b"\n" * 65536)


@given(name=st.one_of(NAMES, st.text(), st.text("aZ09._-/ ", max_size=70)))
@example("pi-7\n")
@example("\u0661")  # a digit, and not an ASCII one
def test_names_are_those_of_workers(name: str) -> None:
    allowed = set(string.ascii_letters + string.digits + "._-")

    found = answer(lambda: check_name(name))

    assert found == (name if 1 <= len(name) <= 64 and set(name) <= allowed else InvalidInput)
    assert found == answer(lambda: check_worker_id(name))
