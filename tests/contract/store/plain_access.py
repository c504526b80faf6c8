"""What ``Access`` means, said as plainly as possible: dicts."""

from __future__ import annotations

from dataclasses import replace

from fedfleet.errors import AlreadyExists, NotAllowed, NotFound
from fedfleet.store.access import CertificateRecord, KeyRecord, TokenRecord


class PlainAccess:
    def __init__(self) -> None:
        self._tokens: dict[str, TokenRecord] = {}
        self._certificates: dict[str, CertificateRecord] = {}
        self._keys: dict[str, KeyRecord] = {}

    def add_token(self, token: TokenRecord) -> None:
        self._add(self._tokens, token.token_id, token)

    def token(self, token_id: str) -> TokenRecord:
        return self._found(self._tokens, token_id)

    def tokens(self) -> list[TokenRecord]:
        return list(self._tokens.values())

    def delete_token(self, token_id: str) -> None:
        del self._tokens[self.token(token_id).token_id]

    def use_token(self, token_id: str, certificate: CertificateRecord) -> None:
        self.token(token_id)
        self.add_certificate(certificate)
        self.delete_token(token_id)

    def add_certificate(self, certificate: CertificateRecord, *, renews: str = "") -> None:
        if renews and self.certificate(renews).revoked:
            raise NotAllowed(renews)
        self._add(self._certificates, certificate.serial, certificate)

    def certificate(self, serial: str) -> CertificateRecord:
        return self._found(self._certificates, serial)

    def certificates(self, *, after_s: float = 0.0) -> list[CertificateRecord]:
        return [c for c in self._certificates.values() if c.expires_at_s > after_s]

    def revoke(self, role: str, name: str) -> list[CertificateRecord]:
        for token in self.tokens():
            if (token.role, token.name) == (role, name):
                self.delete_token(token.token_id)
        revoked = [
            replace(c, revoked=True)
            for c in self._certificates.values()
            if (c.role, c.name) == (role, name) and not c.revoked
        ]
        self._certificates.update((c.serial, c) for c in revoked)
        return revoked

    def forget_certificates(self, before_s: float) -> None:
        kept = {
            serial: certificate
            for serial, certificate in self._certificates.items()
            if certificate.expires_at_s >= before_s or certificate.revoked
        }
        self._certificates = kept

    def add_key(self, key: KeyRecord) -> None:
        self._add(self._keys, key.key_id, key)

    def key(self, key_id: str) -> KeyRecord:
        return self._found(self._keys, key_id)

    def keys(self) -> list[KeyRecord]:
        return list(self._keys.values())

    def delete_key(self, key_id: str) -> None:
        del self._keys[self.key(key_id).key_id]

    @staticmethod
    def _add(table, key, value) -> None:
        if key in table:
            raise AlreadyExists(key)
        table[key] = value

    @staticmethod
    def _found(table, key):
        if key not in table:
            raise NotFound(key)
        return table[key]
