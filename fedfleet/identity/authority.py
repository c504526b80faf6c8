"""The fleet's own certificate authority: a folder of keys, made on first start.

A key is written before its certificate, a certificate before what it signs, each whole and synced:
so a crash leaves a folder in which only the last pieces are missing, and they are made at the next
start. The root's key is needed for nothing but a new issuing certificate, and may be kept
elsewhere; without ``issuing.key`` and ``issuing.pem``, and with it, a new pair is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from fedfleet.errors import CertificateInvalid, InvalidInput, NotFound, StoreUnavailable
from fedfleet.identity.certificates import (
    BACK_S,
    CLIENT,
    OWN_BACK_S,
    SERVER,
    Leaf,
    Pair,
    host_name,
    make_issuing,
    make_leaf,
    make_root,
    make_self_signed,
)
from fedfleet.identity.credentials import (
    Credentials,
    certificate_request,
    load_credentials,
    new_key,
    save_credentials,
)
from fedfleet.identity.files import (
    is_there,
    locked,
    read_private,
    read_public,
    write_private,
    write_public,
)
from fedfleet.identity.names import TARGET_NAME, Identity, Role, identity_in, uri_of
from fedfleet.identity.pem import (
    chain_pem,
    check_pair,
    key_pem,
    public_bytes,
    read_certificate,
    read_p256,
    read_request,
    reading,
)
from fedfleet.identity.signing import PUBLIC_FILE, Signer
from fedfleet.identity.tokens import pin_of

ROOT_FILE = "root.pem"
OPERATOR_FOLDER = "operator"
# Who calls from the coordinator's own machine and account.
LOCAL_NAME = "local"
LOCAL_LIFE_S = 30 * 86400.0

_ENROLMENT = Leaf(subject="enrolment", names=[x509.DNSName(TARGET_NAME)], uses=[SERVER])


@dataclass(frozen=True)
class Issued:
    """A certificate that was issued.

    Args:
        chain: PEM, the certificate first, then that of its issuer.
    """

    chain: bytes
    identity: Identity


class Authority:
    """Issues certificates. Safe from several threads; calls take about a millisecond.

    Attributes:
        root: certificate that all others here are trusted by, in PEM.
        enrolment: what the enrolment port shows, a certificate that vouches for itself.
        pin: by which a device knows that certificate.
        signer: of versions.
    """

    def __init__(
        self, folder: Path, root: bytes, issuing: Pair, enrolment: Pair, signer: Signer
    ) -> None:
        self.root = root
        self._folder = folder
        self._issuing = issuing
        own = chain_pem(enrolment.certificate)
        self.enrolment = Credentials(key_pem(enrolment.key), own, own)
        self.pin = pin_of(own)
        self.signer = signer

    @classmethod
    def open(cls, folder: Path, now_s: float | None = None) -> Authority:
        """The authority of a folder; what is missing is made, by one process at a time.

        Args:
            now_s: None is now.

        Raises:
            CertificateInvalid: others may read a key; a file is damaged, or is missing where
                others that were made after it are there; the authority's own certificate has ended.
            StoreFull, StoreUnavailable: the folder cannot be read or written to.
        """
        now_s = time.time() if now_s is None else now_s
        # A folder in which nothing is missing may be one that cannot be written to.
        with nullcontext() if _is_complete(folder) else locked(folder):
            root = _open_root(folder, now_s)
            issuing = _open_pair(folder, "issuing", lambda key: _sign(folder, root, key, now_s))
            enrolment = _open_pair(
                folder, "enrolment", lambda key: make_self_signed(key, _ENROLMENT, now_s)
            )
        _check_issuing(folder, root, issuing.certificate, now_s)
        return cls(folder, chain_pem(root), issuing, enrolment, Signer.open(folder))

    def issue(
        self, request_pem: bytes, role: Role, name: str, now_s: float, life_s: float
    ) -> Issued:
        """A certificate for the key of a request; all else that it says comes from here.

        Raises:
            CertificateInvalid: the request is malformed, its signature is wrong, or its key is not
                on P-256; or the role or the name is the coordinator's.
            InvalidInput: not a name.
        """
        # The name as well: some releases of grpc take a subject for a host, where there is none.
        if role is Role.COORDINATOR or name.lower() == TARGET_NAME:
            raise CertificateInvalid("the coordinator's certificate is issued to nobody else")
        key = read_request(request_pem).public_key()
        uri = x509.UniformResourceIdentifier(uri_of(role, name))
        return self._issue(key, Leaf(subject=name, names=[uri], uses=[CLIENT]), now_s, life_s)

    def server_credentials(self, now_s: float, life_s: float) -> Credentials:
        """The coordinator's own, with a new key."""
        name = Role.COORDINATOR.value
        uri = x509.UniformResourceIdentifier(uri_of(Role.COORDINATOR, name))
        names = [x509.DNSName(TARGET_NAME), uri]
        leaf = Leaf(subject=name, names=names, uses=[SERVER, CLIENT])
        key = ec.generate_private_key(ec.SECP256R1())
        chain = self._issue(key.public_key(), leaf, now_s, life_s, OWN_BACK_S).chain
        return Credentials(key_pem(key), chain, self.root)

    def issue_server(self, names: Sequence[str], now_s: float, life_s: float) -> Credentials:
        """Credentials of a web server, with a new key: a certificate for hosts, that is nobody's.

        Args:
            names: host names and IP addresses, without wildcards; the first is the subject's.

        Raises:
            InvalidInput: none, or not such a name, or one of those that are the fleet's own.
        """
        hosts = [host_name(name) for name in names]
        if not hosts:
            raise InvalidInput("a server's certificate must be for at least one host")
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = Leaf(subject=names[0][:64], names=hosts, uses=[SERVER])
        certificate = make_leaf(self._issuing, key.public_key(), leaf, now_s, life_s, OWN_BACK_S)
        chain = chain_pem(certificate, self._issuing.certificate)
        return Credentials(key_pem(key), chain, self.root, "")

    def check_ended(
        self, certificate_pem: bytes, request_pem: bytes, now_s: float, grace_s: float
    ) -> Identity:
        """Whose certificate it is that ended not long ago, shown by whoever holds its key.

        It may still be valid: a device's clock may be fast. Whether it was revoked is not known
        here.

        Raises:
            CertificateInvalid: it is not of this authority, ended longer than ``grace_s`` ago, or
                the request is not of its key; or one of them cannot be read.
        """
        request = read_request(request_pem)
        certificate = read_certificate(certificate_pem)
        with reading("the certificate"):
            key = public_bytes(certificate.public_key())
            if not _is_issued_by(certificate, self._issuing.certificate):
                raise CertificateInvalid("the certificate was not issued here: enrol again")
        if public_bytes(request.public_key()) != key:
            raise CertificateInvalid("the certificate request is of another key than the old one")
        identity = identity_in(certificate)
        if identity.role is Role.COORDINATOR:
            raise CertificateInvalid("the coordinator's certificate is issued to nobody else")
        if now_s > identity.expires_at_s + grace_s:
            raise CertificateInvalid("the certificate ended too long ago: enrol again")
        return identity

    def local_operator(
        self,
        now_s: float | None = None,
        life_s: float = LOCAL_LIFE_S,
        *,
        is_revoked: Callable[[str], bool] = lambda serial: False,
    ) -> Credentials:
        """Credentials of ``operator/local``, for whoever may read this folder: the coordinator's
        own account. Made where they are missing, ended soon, damaged or revoked; kept otherwise.

        Args:
            is_revoked: whether a serial was; raises what it likes.

        Raises:
            StoreFull, StoreUnavailable: the folder cannot be read or written to.
        """
        now_s = time.time() if now_s is None else now_s
        held = self._held_operator(now_s)
        if held is not None and not is_revoked(held.identity.serial):
            return held
        with locked(self._folder):
            held = self._held_operator(now_s)
            if held is not None and not is_revoked(held.identity.serial):
                return held
            key = new_key()
            request = certificate_request(key)
            issued = self.issue(request, Role.OPERATOR, LOCAL_NAME, now_s, life_s)
            made = Credentials(key, issued.chain, self.root)
            save_credentials(self._folder / OPERATOR_FOLDER, made)
        return made

    def _held_operator(self, now_s: float) -> Credentials | None:
        """What is in the operator's folder, if it is of this authority and not to be renewed."""
        try:
            held = load_credentials(self._folder / OPERATOR_FOLDER)
        except (NotFound, CertificateInvalid, StoreUnavailable):
            return None  # a file that somebody else has put there is replaced, too
        certificate = read_certificate(held.chain)
        is_ours = held.root == self.root and _is_issued_by(certificate, self._issuing.certificate)
        return held if is_ours and now_s < held.renew_at_s(0.0) else None

    def _issue(
        self,
        key: CertificatePublicKeyTypes,
        leaf: Leaf,
        now_s: float,
        life_s: float,
        back_s: float = BACK_S,
    ) -> Issued:
        certificate = make_leaf(self._issuing, key, leaf, now_s, life_s, back_s)
        chain = chain_pem(certificate, self._issuing.certificate)
        return Issued(chain, identity_in(certificate))


def has_authority(folder: Path) -> bool:
    """Whether a folder holds an authority already."""
    return is_there(folder / ROOT_FILE)


def _is_complete(folder: Path) -> bool:
    """Whether nothing has to be made; the root's key may lie elsewhere."""
    later = ("issuing.key", "issuing.pem", "enrolment.key", "enrolment.pem")
    return all(is_there(folder / name) for name in (ROOT_FILE, *later))


def _open_root(folder: Path, now_s: float) -> x509.Certificate:
    if not is_there(folder / "root.key"):
        if has_authority(folder):
            return _read(folder / ROOT_FILE)
        later = [path.name for path in sorted(folder.glob("*.pem")) if path.name != PUBLIC_FILE]
        if later:
            raise CertificateInvalid(
                f"{folder / ROOT_FILE} is missing, and {later[0]} is there: bring it back, or name "
                "another folder to begin with a new authority that nobody trusts yet"
            )
    return _open_pair(folder, "root", lambda key: make_root(key, now_s)).certificate


def _open_pair(
    folder: Path, name: str, make: Callable[[ec.EllipticCurvePrivateKey], x509.Certificate]
) -> Pair:
    """A key and its certificate, each made where it is missing."""
    key_path, path = folder / f"{name}.key", folder / f"{name}.pem"
    if not is_there(key_path):
        if is_there(path):
            raise CertificateInvalid(
                f"{key_path} is missing, and {path.name} is there: bring the key back, or remove "
                f"{path.name} to have both made anew"
            )
        write_private(key_path, new_key())
    key = read_p256(read_private(key_path), str(key_path))
    if not is_there(path):
        write_public(path, chain_pem(make(key)))
    certificate = _read(path)
    check_pair(key, certificate, str(path))
    return Pair(key, certificate)


def _sign(
    folder: Path, root: x509.Certificate, key: ec.EllipticCurvePrivateKey, now_s: float
) -> x509.Certificate:
    """The issuing certificate, which alone takes the root's key."""
    path = folder / "root.key"
    try:
        root_key = read_p256(read_private(path), str(path))
    except NotFound:
        raise CertificateInvalid(f"{path} is needed to make a new issuing certificate") from None
    return make_issuing(Pair(root_key, root), key, now_s)


def _read(path: Path) -> x509.Certificate:
    return read_certificate(read_public(path), str(path))


def _check_issuing(
    folder: Path, root: x509.Certificate, issuing: x509.Certificate, now_s: float
) -> None:
    if not _is_issued_by(issuing, root):
        raise CertificateInvalid(f"{folder}: issuing.pem was not issued by {ROOT_FILE}")
    for certificate in (root, issuing):
        if certificate.not_valid_after_utc.timestamp() <= now_s:
            raise CertificateInvalid(
                f"{folder}: the authority ended on {certificate.not_valid_after_utc:%Y-%m-%d}; "
                "move the folder away to begin with a new one, and enrol everybody again"
            )


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer is named as such and has signed it."""
    try:
        with reading("the certificate"):
            certificate.verify_directly_issued_by(issuer)
    except CertificateInvalid:
        return False
    return True
