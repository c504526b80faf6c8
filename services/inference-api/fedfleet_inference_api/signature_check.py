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

    The coordinator may make the key after this service has started. Until it is there nothing can
    be served: a key that whoever writes the store has removed must not open the door to them.

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

    def prepare(self) -> None:
        """Return if versions can be checked, or need not be.

        Raises:
            SignatureInvalid: the key is not there yet, or cannot be read.
        """
        if not self._is_off:
            self._read()

    def check(self, record: VersionRecord) -> bool:
        """Return whether a version's signature was checked, if it may be served.

        Raises:
            SignatureInvalid: it may not.
        """
        if self._is_off:
            logger.warning("version_not_verified", extra={"is_signed": bool(record.signature)})
            return False
        title = f"{record.model} version {record.number}"
        key = self._read()
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

    def _read(self) -> bytes:
        """The key."""
        if self._key is None:
            where = "that FEDFLEET_SIGNER names" if self._is_named else "in the store's folder"
            try:
                key = read_public(self._path)
                _try(key)
            except NotFound as error:
                raise SignatureInvalid(
                    f"no {PUBLIC_FILE} yet: the signer's public key {where} is not there, and "
                    "nothing is served until it is. The coordinator makes it at its first start; "
                    f"where that is elsewhere, name a copy of the coordinator's {PUBLIC_FILE} in "
                    "FEDFLEET_SIGNER (none serves unsigned versions)",
                    detail=error.message,
                ) from error
            except (CertificateInvalid, StoreUnavailable) as error:
                raise SignatureInvalid(
                    f"no version can be verified: the signer's public key {where} cannot be read",
                    detail=error.message,
                ) from error
            self._key = key
        return self._key


def _try(key: bytes) -> None:
    """Raise CertificateInvalid where a signature cannot be checked with a key."""
    try:
        verify(key, b"", "0" * 128)
    except SignatureInvalid:
        return
