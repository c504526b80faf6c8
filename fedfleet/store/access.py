"""Who may come in: tokens, certificates, keys. The store keeps hashes, never a secret.

Names are those of workers, operators or observers; a name counts together with its role. Times are
seconds since the epoch; the caller says what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class TokenRecord:
    """A single-use token that was not used yet.

    Args:
        secret_hash: SHA-256 in hex of the secret part.
    """

    token_id: str
    secret_hash: str
    role: str
    name: str
    created_at_s: float
    expires_at_s: float


@dataclass(frozen=True, kw_only=True)
class CertificateRecord:
    """A certificate that was issued.

    Args:
        serial: in lower-case hex without leading zeros.
    """

    serial: str
    role: str
    name: str
    issued_at_s: float
    expires_at_s: float
    revoked: bool = False


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """A key for the REST interface.

    Args:
        expires_at_s: 0 is never.
    """

    key_id: str
    secret_hash: str
    name: str
    scopes: tuple[str, ...]
    created_at_s: float
    expires_at_s: float = 0.0


class Access(Protocol):
    """One transaction each; durable when a call returns."""

    def add_token(self, token: TokenRecord) -> None:
        """Raises AlreadyExists."""

    def token(self, token_id: str) -> TokenRecord:
        """Raises NotFound: unknown, or used."""

    def tokens(self) -> list[TokenRecord]:
        """In order of their making."""

    def delete_token(self, token_id: str) -> None:
        """Raises NotFound."""

    def use_token(self, token_id: str, certificate: CertificateRecord) -> None:
        """Delete the token and add the certificate, both or neither.

        Raises:
            NotFound: the token is unknown, or was used meanwhile.
            AlreadyExists: the serial is taken.
        """

    def add_certificate(self, certificate: CertificateRecord, *, renews: str = "") -> None:
        """Add a certificate that needs no token.

        Args:
            renews: serial of the certificate that this one follows; looked at in the same
                transaction, so that a name that is revoked meanwhile does not come back.

        Raises:
            AlreadyExists: the serial is taken.
            NotFound: there is no certificate to renew.
            NotAllowed: it was revoked.
        """

    def certificate(self, serial: str) -> CertificateRecord:
        """Raises NotFound."""

    def certificates(self, *, after_s: float = 0.0) -> list[CertificateRecord]:
        """Those that end after a time, in the order in which they were added."""

    def revoke(self, role: str, name: str) -> list[CertificateRecord]:
        """Revoke all certificates of a name and delete its tokens; returns those that were not
        revoked before, as they are now.
        """

    def forget_certificates(self, before_s: float) -> None:
        """Remove those that ended before a time, but none that was revoked: the caller's clock may
        be wrong, and what is forgotten is not refused.
        """

    def add_key(self, key: KeyRecord) -> None:
        """Raises AlreadyExists."""

    def key(self, key_id: str) -> KeyRecord:
        """Raises NotFound."""

    def keys(self) -> list[KeyRecord]:
        """In order of their making."""

    def delete_key(self, key_id: str) -> None:
        """Raises NotFound."""
