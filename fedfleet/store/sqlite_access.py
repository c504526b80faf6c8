"""Who may come in, in SQLite: tokens, certificates, keys."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, replace

from fedfleet.errors import AlreadyExists, NotAllowed, NotFound
from fedfleet.store.access import CertificateRecord, KeyRecord, TokenRecord
from fedfleet.store.sqlite_database import Database

_TOKENS = "SELECT token_id, secret_hash, role, name, created_at_s, expires_at_s FROM tokens"
_CERTIFICATES = "SELECT serial, role, name, issued_at_s, expires_at_s, revoked FROM certificates"
_KEYS = "SELECT key_id, secret_hash, name, scopes, created_at_s, expires_at_s FROM api_keys"


class SqliteAccess:
    """Keeps the promises of ``Access``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_token(self, token: TokenRecord) -> None:
        with self._database.transaction() as connection:
            if connection.execute(f"{_TOKENS} WHERE token_id = ?", (token.token_id,)).fetchone():
                raise AlreadyExists(f"there is a token {token.token_id!r} already: make another")
            connection.execute(
                "INSERT INTO tokens (token_id, secret_hash, role, name, created_at_s, expires_at_s)"
                " VALUES (:token_id, :secret_hash, :role, :name, :created_at_s, :expires_at_s)",
                asdict(token),
            )

    def token(self, token_id: str) -> TokenRecord:
        rows = self._database.rows(f"{_TOKENS} WHERE token_id = ?", token_id)
        if not rows:
            raise _no_token(token_id)
        return _token(rows[0])

    def tokens(self) -> list[TokenRecord]:
        return [_token(row) for row in self._database.rows(f"{_TOKENS} ORDER BY id")]

    def delete_token(self, token_id: str) -> None:
        with self._database.transaction() as connection:
            _delete_token(connection, token_id)

    def use_token(self, token_id: str, certificate: CertificateRecord) -> None:
        with self._database.transaction() as connection:
            _delete_token(connection, token_id)
            _insert_certificate(connection, certificate)

    def add_certificate(self, certificate: CertificateRecord, *, renews: str = "") -> None:
        with self._database.transaction() as connection:
            if renews:
                _check_valid(connection, renews)
            _insert_certificate(connection, certificate)

    def certificate(self, serial: str) -> CertificateRecord:
        rows = self._database.rows(f"{_CERTIFICATES} WHERE serial = ?", serial)
        if not rows:
            raise _no_certificate(serial)
        return _certificate(rows[0])

    def certificates(self, *, after_s: float = 0.0) -> list[CertificateRecord]:
        rows = self._database.rows(f"{_CERTIFICATES} WHERE expires_at_s > ? ORDER BY id", after_s)
        return [_certificate(row) for row in rows]

    def revoke(self, role: str, name: str) -> list[CertificateRecord]:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM tokens WHERE role = ? AND name = ?", (role, name))
            valid = connection.execute(
                f"{_CERTIFICATES} WHERE role = ? AND name = ? AND revoked = 0 ORDER BY id",
                (role, name),
            ).fetchall()
            connection.execute(
                "UPDATE certificates SET revoked = 1 WHERE role = ? AND name = ?", (role, name)
            )
        return [replace(_certificate(row), revoked=True) for row in valid]

    def forget_certificates(self, before_s: float) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM certificates WHERE expires_at_s < ? AND revoked = 0", (before_s,)
            )

    def add_key(self, key: KeyRecord) -> None:
        with self._database.transaction() as connection:
            if connection.execute(f"{_KEYS} WHERE key_id = ?", (key.key_id,)).fetchone():
                raise AlreadyExists(f"there is a key {key.key_id!r} already: make another")
            connection.execute(
                "INSERT INTO api_keys (key_id, secret_hash, name, scopes, created_at_s,"
                " expires_at_s)"
                " VALUES (:key_id, :secret_hash, :name, :scopes, :created_at_s, :expires_at_s)",
                {**asdict(key), "scopes": json.dumps(key.scopes)},
            )

    def key(self, key_id: str) -> KeyRecord:
        rows = self._database.rows(f"{_KEYS} WHERE key_id = ?", key_id)
        if not rows:
            raise _no_key(key_id)
        return _key(rows[0])

    def keys(self) -> list[KeyRecord]:
        return [_key(row) for row in self._database.rows(f"{_KEYS} ORDER BY id")]

    def delete_key(self, key_id: str) -> None:
        with self._database.transaction() as connection:
            if not connection.execute("DELETE FROM api_keys WHERE key_id = ?", (key_id,)).rowcount:
                raise _no_key(key_id)


def _delete_token(connection: sqlite3.Connection, token_id: str) -> None:
    if not connection.execute("DELETE FROM tokens WHERE token_id = ?", (token_id,)).rowcount:
        raise _no_token(token_id)


def _insert_certificate(connection: sqlite3.Connection, certificate: CertificateRecord) -> None:
    serial = certificate.serial
    if connection.execute(f"{_CERTIFICATES} WHERE serial = ?", (serial,)).fetchone():
        raise AlreadyExists(
            f"there is a certificate with serial {serial[:80]!r} already: issue another"
        )
    connection.execute(
        "INSERT INTO certificates (serial, role, name, issued_at_s, expires_at_s, revoked)"
        " VALUES (:serial, :role, :name, :issued_at_s, :expires_at_s, :revoked)",
        asdict(certificate),
    )


def _check_valid(connection: sqlite3.Connection, serial: str) -> None:
    row = connection.execute(f"{_CERTIFICATES} WHERE serial = ?", (serial,)).fetchone()
    if row is None:
        raise _no_certificate(serial)
    if row["revoked"]:
        raise NotAllowed(f"certificate {serial[:80]!r} was revoked: enrol again with a new token")


def _no_certificate(serial: str) -> NotFound:
    return NotFound(f"there is no certificate {serial[:80]!r}")


def _no_token(token_id: str) -> NotFound:
    return NotFound(f"there is no token {token_id[:80]!r}: it is unknown, or was used")


def _no_key(key_id: str) -> NotFound:
    return NotFound(f"there is no key {key_id[:80]!r}")


def _token(row: sqlite3.Row) -> TokenRecord:
    return TokenRecord(**dict(row))


def _certificate(row: sqlite3.Row) -> CertificateRecord:
    return CertificateRecord(**{**dict(row), "revoked": bool(row["revoked"])})


def _key(row: sqlite3.Row) -> KeyRecord:
    return KeyRecord(**{**dict(row), "scopes": tuple(json.loads(row["scopes"]))})
