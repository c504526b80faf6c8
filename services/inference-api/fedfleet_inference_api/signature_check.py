"""Refuses versions that are not, in every field, what the coordinator has signed."""

from __future__ import annotations

import logging
from pathlib import Path

from fedfleet.errors import (
    CertificateInvalid,
    NotFound,
    SettingInvalid,
    SignatureInvalid,
    StoreUnavailable,
)
from fedfleet.identity.files import read_public
from fedfleet.identity.signing import PUBLIC_FILE, verify
from fedfleet.store.protocols import VersionRecord, manifest_of

logger = logging.getLogger(__name__)

NONE = "none"
# Where a coordinator with a sqlite: store keeps its keys unless told otherwise.
CA_FOLDER = "ca"


class SignatureCheck:
    """Holds versions to one public key, which is read when it is first needed and then kept.

    The coordinator may make the key after this service has started. Until then a sqlite: store
    without one serves unsigned versions, as it did before there were signatures.

    Args:
        signer: the setting: a file, ``none``, or empty for the folder of a sqlite: store.
        store: the store's URL.

    Raises:
        SettingInvalid: the store keeps no key, and none is named.
    """

    def __init__(self, signer: str, store: str) -> None:
        self._key: bytes | None = None
        self._is_off = signer.strip().lower() == NONE
        self._is_named = bool(signer) and not self._is_off
        scheme, _, path = store.partition(":")
        if not signer and scheme in ("redis", "rediss"):
            raise SettingInvalid(
                "FEDFLEET_SIGNER is not set, and this store keeps no keys: name a copy of the "
                f"coordinator's {PUBLIC_FILE}, or 'none' to serve unsigned versions"
            )
        beside = Path(path) / CA_FOLDER / PUBLIC_FILE
        self._path = (Path(signer) if self._is_named else beside).expanduser()

    def check(self, record: VersionRecord) -> bool:
        """Return whether a version is signed, if it may be served.

        Raises:
            SignatureInvalid: it may not.
        """
        title = f"{record.model} version {record.number}"
        key = None if self._is_off else self._read(title)
        if key is None:
            if record.signature and not self._is_off:
                raise SignatureInvalid(
                    f"{title} is signed, and the signer's public key is not here: name a copy of "
                    f"the coordinator's {PUBLIC_FILE} in FEDFLEET_SIGNER"
                )
            logger.warning("version_not_verified", extra={"is_signed": bool(record.signature)})
            return False
        if not record.signature:
            raise SignatureInvalid(
                f"{title} is not signed: it is older than the store's signer, or was altered. Let "
                "the coordinator commit another version, or serve unsigned ones with "
                "FEDFLEET_SIGNER=none"
            )
        try:
            verify(key, manifest_of(record), record.signature)
        except SignatureInvalid as error:
            raise SignatureInvalid(
                f"{title} is not what the signer signed: it was altered, or FEDFLEET_SIGNER names "
                "the key of another coordinator",
                detail=error.message,
            ) from error
        return True

    def _read(self, title: str) -> bytes | None:
        """The key, None where none needs to be there."""
        if self._key is None:
            try:
                key = read_public(self._path)
                _try(key)
            except NotFound as error:
                if self._is_named:
                    raise self._unreadable(title, error.message) from error
                return None
            except (CertificateInvalid, StoreUnavailable) as error:
                raise self._unreadable(title, error.message) from error
            self._key = key
        return self._key

    def _unreadable(self, title: str, detail: str) -> SignatureInvalid:
        where = "that FEDFLEET_SIGNER names" if self._is_named else "in the store's folder"
        return SignatureInvalid(
            f"{title} cannot be verified: the signer's public key {where} cannot be read",
            detail=detail,
        )


def _try(key: bytes) -> None:
    """Raise CertificateInvalid where a signature cannot be checked with a key."""
    try:
        verify(key, b"", "0" * 128)
    except SignatureInvalid:
        return
