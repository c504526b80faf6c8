"""Signs what the coordinator vouches for, and checks it elsewhere (Ed25519, RFC 8032)."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from fedfleet.errors import CertificateInvalid, SignatureInvalid
from fedfleet.identity.files import (
    is_there,
    locked,
    read_private,
    read_public,
    write_private,
    write_public,
)
from fedfleet.identity.pem import key_pem, read_key, reading

KEY_FILE, PUBLIC_FILE = "signer.key", "signer.pem"

_SIGNATURE = re.compile("[0-9a-f]{128}")


class Signer:
    """Signs with one key. Safe from several threads.

    Args:
        key: Ed25519, in PEM.

    Raises:
        CertificateInvalid: it is not that.
    """

    def __init__(self, key: bytes) -> None:
        private = read_key(key, "the signer's key")
        if not isinstance(private, Ed25519PrivateKey):
            raise CertificateInvalid("the signer's key is of another kind than Ed25519")
        self._key = private

    @classmethod
    def open(cls, folder: Path) -> Signer:
        """The signer of a folder, whose key is made where it is missing; else only read.

        Raises:
            CertificateInvalid: others may read the key, it is damaged or of another public half,
                or it is missing where that is there: then it has to come back from a backup.
            StoreFull, StoreUnavailable: the folder cannot be written to.
        """
        path, public = folder / KEY_FILE, folder / PUBLIC_FILE
        if is_there(path) and is_there(public):
            return cls._checked(path, public)
        with locked(folder):
            if not is_there(path):
                if is_there(public):
                    raise CertificateInvalid(
                        f"{path} is missing, and {public.name} is there: bring the key back, or "
                        f"remove {public.name} to begin with a new one that nobody trusts yet"
                    )
                write_private(path, key_pem(Ed25519PrivateKey.generate()))
            if not is_there(public):
                write_public(public, cls(read_private(path)).public_pem)
        return cls._checked(path, public)

    @classmethod
    def _checked(cls, path: Path, public: Path) -> Signer:
        signer = cls(read_private(path))
        if read_public(public) != signer.public_pem:
            raise CertificateInvalid(f"{public} and its key do not belong together")
        return signer

    @property
    def public_pem(self) -> bytes:
        """What signatures are checked with."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes) -> str:
        """The signature over some bytes, 128 digits of lower-case hex."""
        return self._key.sign(data).hex()


def verify(public_pem: bytes, data: bytes, signature: str) -> None:
    """Return if a signature over some bytes is of the key.

    Raises:
        SignatureInvalid: it is missing, malformed, or of another key or over other bytes.
        CertificateInvalid: the key is not an Ed25519 public key in PEM.
    """
    key = _public_key(public_pem)
    if not signature:
        raise SignatureInvalid("it is not signed")
    if not _SIGNATURE.fullmatch(signature):
        raise SignatureInvalid("its signature is malformed: must be 128 lower-case hex digits")
    try:
        key.verify(bytes.fromhex(signature), data)
    except InvalidSignature:
        raise SignatureInvalid("its signature is of another key, or over other content") from None


def _public_key(pem: bytes) -> Ed25519PublicKey:
    with reading("the signer's public key"):
        key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateInvalid("the signer's public key is of another kind than Ed25519")
    return key
