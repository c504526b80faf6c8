from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import CertificateInvalid, NotFound
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import (
    FILE,
    Credentials,
    certificate_request,
    is_of_another_account,
    load_credentials,
    load_external,
    new_key,
    save_credentials,
)
from fedfleet.identity.files import write_private, write_public
from fedfleet.identity.names import TARGET_NAME, Role
from fedfleet.identity.pem import chain_pem, key_pem

Forge = Callable[..., Credentials]


@pytest.fixture(scope="module")
def good(forge: Forge) -> Credentials:
    return forge()


def test_saved_credentials_are_loaded_as_they_were(tmp_path: Path, good: Credentials) -> None:
    for credentials in (good, replace(good, target_name="")):
        save_credentials(tmp_path, credentials)

        assert load_credentials(tmp_path) == credentials
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_saved_roots_may_be_several(tmp_path: Path, good: Credentials, foreign: Authority) -> None:
    credentials = replace(good, root=good.root + foreign.root)

    save_credentials(tmp_path, credentials)

    assert load_credentials(tmp_path) == credentials


def test_save_refuses_key_of_one_and_chain_of_another(tmp_path: Path, good: Credentials) -> None:
    save_credentials(tmp_path, good)

    with pytest.raises(CertificateInvalid, match="do not belong together"):
        save_credentials(tmp_path, replace(good, key=new_key()))

    assert load_credentials(tmp_path) == good


def test_load_where_nothing_was_saved_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="enrol first"):
        load_credentials(tmp_path)


def test_load_refuses_what_others_may_read(tmp_path: Path, good: Credentials) -> None:
    save_credentials(tmp_path, good)
    (tmp_path / FILE).chmod(0o644)

    with pytest.raises(CertificateInvalid, match="chmod"):
        load_credentials(tmp_path)


@given(cut=st.integers(0, 2500))
def test_load_of_a_file_that_was_cut_off_is_refused(
    tmp_path_factory: pytest.TempPathFactory, good: Credentials, cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "cut"
    save_credentials(folder, good)
    path = folder / FILE
    data = path.read_bytes()
    if cut >= len(data):
        return
    write_private(path, data[:cut])

    with pytest.raises(CertificateInvalid, match=str(path)):
        load_credentials(folder)


def test_repr_of_credentials_shows_no_key(good: Credentials) -> None:
    assert "PRIVATE" not in repr(good)
    assert "BEGIN" not in repr(good)


def test_request_names_nobody() -> None:
    request = x509.load_pem_x509_csr(certificate_request(new_key()))

    assert list(request.subject) == []
    assert list(request.extensions) == []


@given(
    passed_s=st.floats(0, 9 * 365 * 86400),
    life_s=st.floats(2.0, 100 * 86400),
    jitter=st.floats(-1, 1),
)
def test_renewal_is_at_two_thirds_give_or_take(
    forge: Forge, passed_s: float, life_s: float, jitter: float
) -> None:
    now_s = time.time() + passed_s

    at_s = forge(now_s=now_s, life_s=life_s).renew_at_s(jitter)

    # Certificates count whole seconds.
    assert abs(at_s - (now_s + life_s * 2 / 3 * (1 + jitter / 10))) < 2


def test_life_of_a_certificate_is_from_its_issue(authority: Authority) -> None:
    key, now_s = new_key(), float(int(time.time()))
    issued = authority.issue(certificate_request(key), Role.WORKER, "pi-7", now_s, 60.0)
    credentials = Credentials(key, issued.chain, authority.root)

    assert credentials.issued_at_s == now_s
    assert credentials.expires_at_s == now_s + 60 == credentials.identity.expires_at_s
    assert credentials.renew_at_s(0.0) == now_s + 40
    assert credentials.target_name == TARGET_NAME


@pytest.mark.parametrize("life_s", [3600.0, 30 * 86400.0])
def test_life_of_the_coordinators_own_is_from_its_issue_too(
    authority: Authority, life_s: float
) -> None:
    """It is dated back by more, which may not make it due for renewal at once, or too late."""
    now_s = float(int(time.time()))

    own = authority.server_credentials(now_s, life_s)

    assert own.begins_at_s == now_s - 86400
    assert own.issued_at_s == now_s
    assert own.renew_at_s(0.0) == now_s + life_s * 2 / 3


def test_owner_of_credentials_is_seen(tmp_path: Path, good: Credentials) -> None:
    with pytest.raises(NotFound, match="no credentials in"):
        is_of_another_account(tmp_path)
    save_credentials(tmp_path, good)
    assert not is_of_another_account(tmp_path)
    if os.geteuid() == 0:  # who alone may give a file away
        os.chown(tmp_path / "credentials.pem", 12345, -1)
        assert is_of_another_account(tmp_path)


@pytest.fixture
def external(tmp_path: Path, foreign: Authority) -> tuple[Path, Path, Path]:
    """Files of another authority, as a deployment has them."""
    server = foreign.issue_server(["localhost"], time.time(), 600.0)
    paths = (tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    write_public(paths[0], server.chain)
    write_private(paths[1], server.key)
    write_public(paths[2], server.root)
    return paths


def test_external_credentials_are_for_the_address(external: tuple[Path, Path, Path]) -> None:
    credentials = load_external(*external)

    assert credentials.target_name == ""
    assert credentials.chain == external[0].read_bytes()
    assert credentials.root == external[2].read_bytes()


def test_life_of_a_certificate_that_is_not_dated_back_is_its_whole(authority: Authority) -> None:
    """Another authority's, which lives for less time than ours are dated back."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(seconds=60))
        .sign(key, SHA256())
    )
    credentials = Credentials(key_pem(key), chain_pem(certificate), authority.root, "")

    assert credentials.expires_at_s - credentials.issued_at_s == 60


def test_external_files_of_two_keys_are_refused(
    external: tuple[Path, Path, Path], good: Credentials
) -> None:
    write_private(external[1], good.key)

    with pytest.raises(CertificateInvalid, match=r"tls.crt and its key do not belong together"):
        load_external(*external)


def test_external_files_tell_which_is_wrong(external: tuple[Path, Path, Path]) -> None:
    for path in external:
        data = path.read_bytes()
        path.write_bytes(b"nothing")
        with pytest.raises(CertificateInvalid, match=str(path)):
            load_external(*external)
        path.unlink()
        with pytest.raises(NotFound, match=str(path)):
            load_external(*external)
        write_private(path, data)
    external[1].chmod(0o644)
    with pytest.raises(CertificateInvalid, match="others may read"):
        load_external(*external)


async def test_web_server_takes_the_file_as_it_is(tmp_path: Path, authority: Authority) -> None:
    """A browser's rules (RFC 5280 to the letter) accept the chain; other names are refused."""
    save_credentials(tmp_path, authority.issue_server(["localhost"], time.time(), 600.0))
    held = load_credentials(tmp_path)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(tmp_path / FILE)
    caller_side = ssl.create_default_context(cadata=held.root.decode())
    caller_side.verify_flags |= ssl.VERIFY_X509_STRICT

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_side)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=caller_side, server_hostname="localhost"
        )
        assert await reader.read() == b"here"
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'elsewhere'"):
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=caller_side, server_hostname="elsewhere"
            )
