"""Who may come in, in Redis: tokens, certificates, keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedfleet.errors import AlreadyExists, NotAllowed, NotFound
from fedfleet.store.access import CertificateRecord, KeyRecord, TokenRecord
from fedfleet.store.redis_access_scripts import (
    ADD_CERTIFICATE,
    ADD_KEY,
    ADD_TOKEN,
    DELETE_KEY,
    DELETE_TOKEN,
    FORGET,
    REVOKE,
    USE_TOKEN,
)
from fedfleet.store.redis_lanes import RedisServer

_BATCH = 500


class RedisAccess:
    """Keeps the promises of ``Access``."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._keys = server.keys

    def add_token(self, token: TokenRecord) -> None:
        keys = self._keys
        reply = self._server.write(
            ADD_TOKEN,
            [keys.ids, keys.tokens, keys.token_names],
            [token.token_id, _name(token), _text(token)],
        )
        if reply[0] == b"exists":
            raise AlreadyExists(f"there is a token {token.token_id!r} already: make another")

    def token(self, token_id: str) -> TokenRecord:
        return _token(self._token_text(token_id))

    def tokens(self) -> list[TokenRecord]:
        texts = self._server.read(("HVALS", self._keys.tokens))[0]
        return [_token(text) for text in sorted(texts, key=_sequence)]

    def delete_token(self, token_id: str) -> None:
        keys = self._keys
        while True:
            seen = self._token_text(token_id)
            reply = self._server.write(
                DELETE_TOKEN,
                [keys.tokens, keys.token_names],
                [token_id, _name(_token(seen)), seen],
            )
            if _is_settled(reply, token_id):
                return

    def use_token(self, token_id: str, certificate: CertificateRecord) -> None:
        keys = self._keys
        while True:
            seen = self._token_text(token_id)
            reply = self._server.write(
                USE_TOKEN,
                [
                    keys.ids,
                    keys.tokens,
                    keys.token_names,
                    keys.certificates,
                    keys.certificate_names,
                    keys.revoked,
                ],
                [token_id, _name(_token(seen)), seen, *_certificate_words(certificate)],
            )
            if reply[0] == b"exists":
                raise _is_issued(certificate.serial)
            if _is_settled(reply, token_id):
                return

    def add_certificate(self, certificate: CertificateRecord, *, renews: str = "") -> None:
        keys = self._keys
        reply = self._server.write(
            ADD_CERTIFICATE,
            [keys.ids, keys.certificates, keys.certificate_names, keys.revoked],
            [renews, *_certificate_words(certificate)],
        )
        if reply[0] == b"none":
            raise _no_certificate(renews)
        if reply[0] == b"revoked":
            raise NotAllowed(
                f"certificate {renews[:80]!r} was revoked: enrol again with a new token"
            )
        if reply[0] == b"exists":
            raise _is_issued(certificate.serial)

    def certificate(self, serial: str) -> CertificateRecord:
        keys = self._keys
        text, is_revoked = self._server.read(
            ("HGET", keys.certificates, serial), ("SISMEMBER", keys.revoked, serial)
        )
        if text is None:
            raise _no_certificate(serial)
        return _certificate(text, revoked=bool(is_revoked))

    def certificates(self, *, after_s: float = 0.0) -> list[CertificateRecord]:
        keys = self._keys
        texts, serials = self._server.read(("HVALS", keys.certificates), ("SMEMBERS", keys.revoked))
        revoked = {serial.decode() for serial in serials}
        found = [_certificate(text, revoked=False) for text in sorted(texts, key=_sequence)]
        return [
            replace(one, revoked=one.serial in revoked)
            for one in found
            if one.expires_at_s > after_s
        ]

    def revoke(self, role: str, name: str) -> list[CertificateRecord]:
        keys = self._keys
        reply = self._server.write(
            REVOKE,
            [
                keys.tokens,
                keys.token_names,
                keys.certificates,
                keys.certificate_names,
                keys.revoked,
            ],
            [_name_of(role, name)],
        )
        return [_certificate(text, revoked=True) for text in sorted(reply[1:], key=_sequence)]

    def forget_certificates(self, before_s: float) -> None:
        keys = self._keys
        known = self.certificates()
        over = [one for one in known if one.expires_at_s < before_s and not one.revoked]
        for start in range(0, max(1, len(over)), _BATCH):
            words = [
                word for one in over[start : start + _BATCH] for word in (one.serial, _name(one))
            ]
            self._server.write(
                FORGET, [keys.certificates, keys.certificate_names, keys.revoked], words
            )

    def add_key(self, key: KeyRecord) -> None:
        keys = self._keys
        reply = self._server.write(ADD_KEY, [keys.ids, keys.api_keys], [key.key_id, _text(key)])
        if reply[0] == b"exists":
            raise AlreadyExists(f"there is a key {key.key_id!r} already: make another")

    def key(self, key_id: str) -> KeyRecord:
        text = self._server.read(("HGET", self._keys.api_keys, key_id))[0]
        if text is None:
            raise _no_key(key_id)
        return _key(text)

    def keys(self) -> list[KeyRecord]:
        texts = self._server.read(("HVALS", self._keys.api_keys))[0]
        return [_key(text) for text in sorted(texts, key=_sequence)]

    def delete_key(self, key_id: str) -> None:
        if self._server.write(DELETE_KEY, [self._keys.api_keys], [key_id])[0] == b"none":
            raise _no_key(key_id)

    def _token_text(self, token_id: str) -> bytes:
        text: bytes | None = self._server.read(("HGET", self._keys.tokens, token_id))[0]
        if text is None:
            raise _no_token(token_id)
        return text


def _is_settled(reply: Sequence[bytes], token_id: str) -> bool:
    if reply[0] == b"none":
        raise _no_token(token_id)
    return reply[0] == b"ok"


def _name(record: TokenRecord | CertificateRecord) -> str:
    return _name_of(record.role, record.name)


def _name_of(role: str, name: str) -> str:
    # As JSON no name is the beginning of another one.
    return json.dumps([role, name])


def _certificate_words(certificate: CertificateRecord) -> list[str]:
    is_revoked = "1" if certificate.revoked else "0"
    return [certificate.serial, _name(certificate), _text(certificate), is_revoked]


def _text(record: TokenRecord | CertificateRecord | KeyRecord) -> str:
    return json.dumps(vars(record), separators=(",", ":"))


def _sequence(text: bytes) -> int:
    return int(text.partition(b" ")[0])


def _fields(text: bytes) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = json.loads(text.partition(b" ")[2])
    return fields


def _token(text: bytes) -> TokenRecord:
    return TokenRecord(**_fields(text))


def _certificate(text: bytes, *, revoked: bool) -> CertificateRecord:
    return CertificateRecord(**{**_fields(text), "revoked": revoked})


def _key(text: bytes) -> KeyRecord:
    fields = _fields(text)
    return KeyRecord(**{**fields, "scopes": tuple(fields["scopes"])})


def _is_issued(serial: str) -> AlreadyExists:
    return AlreadyExists(
        f"there is a certificate with serial {serial[:80]!r} already: issue another"
    )


def _no_certificate(serial: str) -> NotFound:
    return NotFound(f"there is no certificate {serial[:80]!r}")


def _no_token(token_id: str) -> NotFound:
    return NotFound(f"there is no token {token_id[:80]!r}: it is unknown, or was used")


def _no_key(key_id: str) -> NotFound:
    return NotFound(f"there is no key {key_id[:80]!r}")
