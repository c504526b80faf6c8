from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fedfleet.errors import CertificateInvalid, InvalidInput, StoreUnavailable
from fedfleet.identity.authority import Authority, has_authority
from fedfleet.identity.certificates import AUTHORITY_LIFE_S, SERVER
from fedfleet.identity.credentials import (
    Credentials,
    certificate_request,
    load_credentials,
    new_key,
)
from fedfleet.identity.names import TARGET_NAME, Role, identity_of
from fedfleet.identity.pem import read_certificate, read_chain, read_p256

Forge = Callable[..., Credentials]
NOW_S = float(int(time.time()))
DAY_S = 86400.0
FILES = {
    *("root.key", "root.pem", "issuing.key", "issuing.pem", "enrolment.key", "enrolment.pem"),
    *("signer.key", "signer.pem", "lock"),
}


@pytest.fixture
def own(folder: Path, authority: Authority, tmp_path: Path) -> Path:
    """A copy of an authority's folder."""
    assert authority.root == (folder / "root.pem").read_bytes()
    return Path(shutil.copytree(folder, tmp_path / "ca"))


def crafted_request(key: bytes) -> bytes:
    """A request that asks to be the coordinator, an operator, and an authority."""
    wanted = [
        x509.DNSName(TARGET_NAME),
        x509.UniformResourceIdentifier("spiffe://fedfleet/operator/anna"),
    ]
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, TARGET_NAME)]))
        .add_extension(x509.SubjectAlternativeName(wanted), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([SERVER]), critical=True)
        .sign(read_p256(key), SHA256())
        .public_bytes(Encoding.PEM)
    )


def test_open_makes_what_only_its_owner_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "ca"
    assert not has_authority(folder)

    Authority.open(folder)

    assert has_authority(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes.keys() == FILES
    assert {modes[name] for name in FILES if name.endswith(".key")} == {0o600}


def test_open_again_is_the_same_authority(own: Path, authority: Authority) -> None:
    before = {path.name: path.read_bytes() for path in own.iterdir()}

    again = Authority.open(own)

    assert (again.root, again.pin) == (authority.root, authority.pin)
    assert again.enrolment == authority.enrolment
    assert again.signer.public_pem == authority.signer.public_pem
    assert before == {path.name: path.read_bytes() for path in own.iterdir()}


def test_open_reads_a_folder_that_cannot_be_written_to(own: Path, authority: Authority) -> None:
    """A secret that is mounted into a container."""
    (own / "lock").unlink()
    own.chmod(0o500)
    if os.geteuid() == 0:  # whom modes do not stop
        (own / "lock").mkdir()

    assert Authority.open(own).root == authority.root


def test_open_by_several_at_once_makes_one_authority(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from fedfleet.identity.authority import Authority\n"
        "results = []\n"
        "for trial in range(10):\n"
        "    folder = Path(sys.argv[1], str(trial))\n"
        "    gate, start = os.pipe()\n"
        "    children = []\n"
        "    for _ in range(4):\n"
        "        out, tell = os.pipe()\n"
        "        if os.fork() == 0:\n"
        "            os.close(start)\n"
        "            os.read(gate, 1)\n"  # returns when the parent closes the other end
        "            opened = Authority.open(folder)\n"
        "            operator = opened.local_operator().identity.serial\n"
        "            os.write(tell, repr((opened.root, opened.pin, operator)).encode())\n"
        "            os._exit(0)\n"
        "        os.close(tell)\n"
        "        children.append(out)\n"
        "    os.close(start)\n"
        "    results.append({os.read(out, 65536) for out in children})\n"
        "assert all(len(one) == 1 and all(one) for one in results), results\n"
        "assert len(set(map(frozenset, results))) == 10\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_root_key_can_be_kept_elsewhere(own: Path, authority: Authority) -> None:
    (own / "root.key").unlink()

    assert Authority.open(own).root == authority.root


def test_new_issuing_pair_is_made_with_the_root_key(own: Path, authority: Authority) -> None:
    old = Authority.open(own).server_credentials(NOW_S, DAY_S)
    for name in ("issuing.key", "issuing.pem"):
        (own / name).unlink()

    opened = Authority.open(own)

    assert opened.root == authority.root
    new = read_chain(opened.server_credentials(NOW_S, DAY_S).chain)[1]
    assert new != read_chain(old.chain)[1]
    new.verify_directly_issued_by(read_certificate(authority.root))


@pytest.mark.parametrize(
    ("gone", "text"),
    [
        (["issuing.key"], "bring the key back"),
        (["enrolment.key"], "bring the key back"),
        (["root.pem", "root.key"], "bring it back"),
        (["root.key", "issuing.pem", "issuing.key"], "is needed"),
    ],
)
def test_open_refuses_to_replace_what_was_lost(own: Path, gone: list[str], text: str) -> None:
    for name in gone:
        (own / name).unlink()

    with pytest.raises(CertificateInvalid, match=text) as caught:
        Authority.open(own)

    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", sorted(FILES - {"lock", "root.key"}))
def test_open_names_the_file_that_is_damaged(own: Path, name: str) -> None:
    (own / name).write_bytes((own / name).read_bytes()[:100])

    with pytest.raises(CertificateInvalid, match=name.replace("signer.key", "signer's key")):
        Authority.open(own)


@pytest.mark.parametrize("name", ["issuing.key", "enrolment.key", "signer.key"])
def test_open_refuses_keys_that_others_can_read(own: Path, name: str) -> None:
    (own / name).chmod(0o644)

    with pytest.raises(CertificateInvalid, match=rf"{name}.*others may read"):
        Authority.open(own)


def test_open_refuses_an_issuing_certificate_of_another(own: Path, foreign: Authority) -> None:
    (own / "root.pem").write_bytes(foreign.root)
    (own / "root.key").unlink()

    with pytest.raises(CertificateInvalid, match=r"not issued by root\.pem"):
        Authority.open(own)


def test_open_refuses_an_authority_that_has_ended(own: Path) -> None:
    with pytest.raises(CertificateInvalid, match="the authority ended on"):
        Authority.open(own, time.time() + AUTHORITY_LIFE_S + 1)


def test_issue_is_for_the_key_of_the_request_alone(authority: Authority) -> None:
    """Subject, names and uses that a request asks for are not what it gets."""
    key = new_key()
    request = crafted_request(key)

    issued = authority.issue(request, Role.WORKER, "pi-7", NOW_S, DAY_S)

    leaf = read_certificate(issued.chain)
    assert leaf.public_key() == x509.load_pem_x509_csr(request).public_key()
    assert leaf.subject.rfc4514_string() == "CN=pi-7"
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://fedfleet/worker/pi-7"]
    assert issued.identity == identity_of(issued.chain)


@pytest.mark.parametrize("name", ["", "a b", "../anna", "pi\n7", "pi/7", "a" * 65, "pi-ß"])
def test_issue_refuses_names_that_workers_cannot_have(authority: Authority, name: str) -> None:
    with pytest.raises(InvalidInput):
        authority.issue(certificate_request(new_key()), Role.WORKER, name, NOW_S, DAY_S)


@pytest.mark.parametrize(
    ("role", "name"),
    [
        (Role.COORDINATOR, "coordinator"),
        (Role.WORKER, TARGET_NAME),
        (Role.OPERATOR, TARGET_NAME.upper()),
    ],
)
def test_issue_makes_nobody_the_coordinator(authority: Authority, role: Role, name: str) -> None:
    with pytest.raises(CertificateInvalid, match="to nobody else"):
        authority.issue(certificate_request(new_key()), role, name, NOW_S, DAY_S)


@pytest.mark.parametrize("life_s", [0.0, -1.0, float("nan")])
def test_issue_needs_a_life(authority: Authority, life_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        authority.issue(certificate_request(new_key()), Role.WORKER, "pi-7", NOW_S, life_s)


def test_issue_never_outlives_the_authority(authority: Authority) -> None:
    request = certificate_request(new_key())

    issued = authority.issue(request, Role.WORKER, "pi-7", NOW_S, 100 * AUTHORITY_LIFE_S)

    issuing = read_chain(issued.chain)[1]
    assert issued.identity.expires_at_s == issuing.not_valid_after_utc.timestamp()
    later_s = issued.identity.expires_at_s + 1
    with pytest.raises(CertificateInvalid, match="has ended"):
        authority.issue(request, Role.WORKER, "pi-7", later_s, DAY_S)


def test_server_credentials_are_the_coordinators(authority: Authority) -> None:
    one, other = (authority.server_credentials(NOW_S, DAY_S) for _ in range(2))

    assert one.identity.text == "coordinator/coordinator"
    assert one.key != other.key
    names = read_certificate(one.chain).extensions
    hosts = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert hosts.get_values_for_type(x509.DNSName) == [TARGET_NAME]


def test_enrolment_certificate_vouches_for_itself(authority: Authority) -> None:
    enrolment = authority.enrolment

    assert enrolment.chain == enrolment.root != authority.root
    certificate = read_certificate(enrolment.chain)
    certificate.verify_directly_issued_by(certificate)
    assert enrolment.target_name == TARGET_NAME


@pytest.mark.parametrize(
    "names",
    [
        [],
        [""],
        ["*"],
        ["*.example.org"],
        ["*.fedfleet.internal"],
        [TARGET_NAME],
        [f"x.{TARGET_NAME}"],
        ["FedFleet.Internal"],
        ["localhost", TARGET_NAME.upper()],
        [f"{TARGET_NAME}."],
        ["a b"],
        ["a..b"],
        ["-a"],
        ["1.2.3"],
        ["300.1.1.1"],
        ["fe80::1%eth0"],
        ["bücher.example"],
        ["a" * 64],
        [".".join(["a" * 60] * 5)],
        ["host\n"],
        ["host\0.example.org"],
    ],
)
def test_server_for_other_than_hosts_is_refused(authority: Authority, names: list[str]) -> None:
    with pytest.raises(InvalidInput):
        authority.issue_server(names, NOW_S, DAY_S)


def test_server_is_for_its_hosts_and_nobodys_identity(authority: Authority) -> None:
    hosts = ["Inference.example.org", "localhost", "127.0.0.1", "::1", "a.b-c.xn--bcher-kva.de"]

    credentials = authority.issue_server(hosts, NOW_S, DAY_S)

    names = read_certificate(credentials.chain).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name.value) for name in names.value] == [hosts[0].lower(), *hosts[1:]]
    assert credentials.target_name == ""
    with pytest.raises(CertificateInvalid):
        assert credentials.identity


def test_ended_certificate_is_taken_with_its_key_within_the_grace(authority: Authority) -> None:
    key = new_key()
    request = certificate_request(key)
    issued = authority.issue(request, Role.WORKER, "pi-7", NOW_S, DAY_S)
    ended_s = issued.identity.expires_at_s

    for now_s in (NOW_S, ended_s + 1, ended_s + DAY_S):
        found = authority.check_ended(issued.chain, certificate_request(key), now_s, DAY_S)
        assert found == issued.identity
    with pytest.raises(CertificateInvalid, match="too long ago"):
        authority.check_ended(issued.chain, request, ended_s + DAY_S + 1, DAY_S)


def test_ended_certificate_of_another_key_is_refused(authority: Authority) -> None:
    request = certificate_request(new_key())
    issued = authority.issue(request, Role.WORKER, "pi-7", NOW_S, DAY_S)

    with pytest.raises(CertificateInvalid, match="of another key"):
        authority.check_ended(issued.chain, certificate_request(new_key()), NOW_S, DAY_S)


def test_ended_certificate_of_another_authority_is_refused(
    authority: Authority, foreign: Authority
) -> None:
    request = certificate_request(new_key())
    issued = foreign.issue(request, Role.WORKER, "pi-7", NOW_S, DAY_S)
    ours = authority.issue(request, Role.WORKER, "pi-7", NOW_S, DAY_S)

    leaf, end, _ = issued.chain.partition(b"-----END CERTIFICATE-----\n")
    for chain in (issued.chain, leaf + end + ours.chain):
        with pytest.raises(CertificateInvalid, match="not issued here"):
            authority.check_ended(chain, request, NOW_S, DAY_S)


def test_ended_certificate_that_vouches_for_itself_is_refused(authority: Authority) -> None:
    enrolment = authority.enrolment

    with pytest.raises(CertificateInvalid, match="not issued here"):
        authority.check_ended(enrolment.chain, certificate_request(enrolment.key), NOW_S, DAY_S)


def test_ended_certificate_of_the_authority_itself_names_nobody(
    own: Path, authority: Authority
) -> None:
    request = certificate_request((own / "issuing.key").read_bytes())

    with pytest.raises(CertificateInvalid, match="not issued here"):
        authority.check_ended((own / "issuing.pem").read_bytes(), request, NOW_S, DAY_S)


def test_ended_certificate_of_the_coordinator_is_refused(authority: Authority) -> None:
    server = authority.server_credentials(NOW_S, DAY_S)

    with pytest.raises(CertificateInvalid, match="to nobody else"):
        authority.check_ended(server.chain, certificate_request(server.key), NOW_S, DAY_S)


def test_local_operator_is_kept_until_it_is_to_be_renewed(own: Path) -> None:
    authority = Authority.open(own)

    first = authority.local_operator(NOW_S, 30 * DAY_S)

    assert first.identity.text == "operator/local"
    assert load_credentials(own / "operator") == first
    assert (own / "operator").stat().st_mode & 0o777 == 0o700
    assert Authority.open(own).local_operator(NOW_S + 19 * DAY_S) == first
    renewed = authority.local_operator(NOW_S + 21 * DAY_S)
    assert renewed.identity.serial != first.identity.serial
    assert load_credentials(own / "operator") == renewed


def test_local_operator_that_was_revoked_is_made_anew(own: Path) -> None:
    authority = Authority.open(own)
    first = authority.local_operator(NOW_S)

    second = authority.local_operator(NOW_S, is_revoked={first.identity.serial}.__contains__)

    assert second.identity.serial != first.identity.serial
    assert authority.local_operator(NOW_S, is_revoked=lambda serial: False) == second


def test_local_operator_is_made_anew_where_it_is_of_no_use(own: Path, foreign: Authority) -> None:
    authority = Authority.open(own)
    path = own / "operator" / "credentials.pem"
    first = authority.local_operator(NOW_S)
    whole = path.read_bytes()

    path.write_bytes(whole[:1000])
    second = authority.local_operator(NOW_S)
    path.chmod(0o644)
    third = authority.local_operator(NOW_S)
    path.write_bytes(path.read_bytes().replace(authority.root, foreign.root))
    fourth = authority.local_operator(NOW_S)

    assert len({one.key for one in (first, second, third, fourth)}) == 4
    assert load_credentials(own / "operator") == fourth


def test_local_operator_that_cannot_be_read_is_made_anew(own: Path) -> None:
    """As where another account has renewed it, and owns the file now."""
    path = own / "operator" / "credentials.pem"
    authority = Authority.open(own)
    first = authority.local_operator(NOW_S)
    path.unlink()
    path.symlink_to(path.name)  # which stops root, too

    second = authority.local_operator(NOW_S)

    assert second.identity.serial != first.identity.serial
    assert load_credentials(own / "operator") == second


def test_folder_that_is_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "ca").touch()

    with pytest.raises(StoreUnavailable):
        Authority.open(tmp_path / "ca")
