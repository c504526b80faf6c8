from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import CertificateInvalid, SignatureInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import new_key
from fedfleet.identity.signing import Signer, verify


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer.open(tmp_path_factory.mktemp("signer"))


@given(data=st.binary())
def test_signature_is_good(signer: Signer, data: bytes) -> None:
    verify(signer.public_pem, data, signer.sign(data))


@given(data=st.binary(), other=st.binary())
def test_signature_over_other_bytes_is_refused(signer: Signer, data: bytes, other: bytes) -> None:
    if data == other:
        return
    with pytest.raises(SignatureInvalid, match="over other content"):
        verify(signer.public_pem, other, signer.sign(data))


@given(at=st.integers(0, 127), digit=st.sampled_from("0123456789abcdef"))
def test_altered_signature_is_refused(signer: Signer, at: int, digit: str) -> None:
    good = signer.sign(b"manifest")
    altered = good[:at] + digit + good[at + 1 :]
    if altered == good:
        return
    with pytest.raises(SignatureInvalid):
        verify(signer.public_pem, b"manifest", altered)


def test_signature_of_another_key_is_refused(signer: Signer, authority: Authority) -> None:
    with pytest.raises(SignatureInvalid, match="of another key"):
        verify(signer.public_pem, b"manifest", authority.signer.sign(b"manifest"))


def test_signature_is_written_in_one_way_only(signer: Signer) -> None:
    good = signer.sign(b"manifest")

    for malformed in (good.upper(), good + "00", good[:-2], f"{good}\n", f" {good}"):
        with pytest.raises(SignatureInvalid, match="malformed"):
            verify(signer.public_pem, b"manifest", malformed)


def test_missing_signature_is_told_as_such(signer: Signer) -> None:
    with pytest.raises(SignatureInvalid, match="not signed"):
        verify(signer.public_pem, b"manifest", "")


@pytest.mark.parametrize(
    "pem", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_public_key_that_is_none_is_refused(signer: Signer, pem: bytes) -> None:
    with pytest.raises(CertificateInvalid, match="public key"):
        verify(pem, b"manifest", signer.sign(b"manifest"))


def test_signer_with_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(CertificateInvalid, match="Ed25519"):
        Signer(new_key())


def test_open_keeps_the_key(tmp_path: Path) -> None:
    first, second = Signer.open(tmp_path), Signer.open(tmp_path)

    assert first.public_pem == second.public_pem == (tmp_path / "signer.pem").read_bytes()
    assert (tmp_path / "signer.key").stat().st_mode & 0o777 == 0o600


def test_open_makes_the_public_half_again(tmp_path: Path) -> None:
    first = Signer.open(tmp_path)
    (tmp_path / "signer.pem").unlink()

    assert Signer.open(tmp_path).public_pem == first.public_pem


def test_open_refuses_a_folder_whose_key_is_gone(tmp_path: Path) -> None:
    Signer.open(tmp_path)
    (tmp_path / "signer.key").unlink()

    with pytest.raises(CertificateInvalid, match="bring the key back"):
        Signer.open(tmp_path)


def test_open_refuses_halves_of_two_keys(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    Signer.open(one)
    (one / "signer.pem").write_bytes(Signer.open(other).public_pem)

    with pytest.raises(CertificateInvalid, match="do not belong together"):
        Signer.open(one)
