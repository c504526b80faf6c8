"""The tables of the SQLite store, as each version of the schema added them."""

from __future__ import annotations

# AUTOINCREMENT: an id that was handed out is never reused.
_VERSION_1 = (
    """CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL UNIQUE,
        model TEXT NOT NULL,
        recipe TEXT NOT NULL,
        state TEXT NOT NULL,
        rounds INTEGER NOT NULL,
        created_at_s REAL NOT NULL,
        updated_at_s REAL NOT NULL,
        round INTEGER NOT NULL,
        code TEXT NOT NULL,
        reason TEXT NOT NULL,
        memory_digest TEXT NOT NULL DEFAULT '')""",
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL REFERENCES runs (run_id),
        round INTEGER NOT NULL,
        at_s REAL NOT NULL,
        kind TEXT NOT NULL,
        fields TEXT NOT NULL)""",
    "CREATE INDEX events_of_run ON events (run_id, id)",
    """CREATE TABLE updates (
        run_id TEXT NOT NULL REFERENCES runs (run_id),
        round INTEGER NOT NULL,
        assignment_id TEXT NOT NULL,
        worker_id TEXT NOT NULL,
        header TEXT NOT NULL,
        digest TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        accepted_at_s REAL NOT NULL,
        PRIMARY KEY (run_id, round, assignment_id))""",
    "CREATE INDEX updates_of_blob ON updates (digest)",
    # Versions of a model nearly always share one schema: it is kept once.
    "CREATE TABLE schemas (digest TEXT PRIMARY KEY, params TEXT NOT NULL)",
    """CREATE TABLE versions (
        model TEXT NOT NULL,
        number INTEGER NOT NULL,
        digest TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        schema_digest TEXT NOT NULL REFERENCES schemas (digest),
        run_id TEXT NOT NULL,
        round INTEGER NOT NULL,
        parent INTEGER,
        created_at_s REAL NOT NULL,
        card TEXT NOT NULL,
        metrics TEXT NOT NULL,
        PRIMARY KEY (model, number))""",
    "CREATE INDEX versions_of_blob ON versions (digest)",
    """CREATE TABLE aliases (
        model TEXT NOT NULL,
        alias TEXT NOT NULL,
        number INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        PRIMARY KEY (model, alias),
        FOREIGN KEY (model, number) REFERENCES versions (model, number))""",
    """CREATE TABLE registry_events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        model TEXT NOT NULL,
        number INTEGER NOT NULL,
        alias TEXT NOT NULL)""",
)
_VERSION_2 = (
    # The last stores of version 1 have it, the first ones do not.
    "CREATE INDEX IF NOT EXISTS updates_of_assignment ON updates (run_id, assignment_id, round)",
    "ALTER TABLE versions ADD COLUMN signature TEXT NOT NULL DEFAULT ''",
    """CREATE TABLE lease (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        token INTEGER NOT NULL,
        holder TEXT NOT NULL,
        beat INTEGER NOT NULL,
        lasts_s REAL NOT NULL)""",
    "INSERT INTO lease (id, token, holder, beat, lasts_s) VALUES (1, 0, '', 0, 0)",
    """CREATE TABLE tokens (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        token_id TEXT NOT NULL UNIQUE,
        secret_hash TEXT NOT NULL,
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        created_at_s REAL NOT NULL,
        expires_at_s REAL NOT NULL)""",
    """CREATE TABLE certificates (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        serial TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        issued_at_s REAL NOT NULL,
        expires_at_s REAL NOT NULL,
        revoked INTEGER NOT NULL)""",
    "CREATE INDEX certificates_of_name ON certificates (role, name)",
    "CREATE INDEX certificates_by_end ON certificates (expires_at_s)",
    """CREATE TABLE api_keys (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key_id TEXT NOT NULL UNIQUE,
        secret_hash TEXT NOT NULL,
        name TEXT NOT NULL,
        scopes TEXT NOT NULL,
        created_at_s REAL NOT NULL,
        expires_at_s REAL NOT NULL)""",
    """CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        at_s REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        object TEXT NOT NULL,
        fields TEXT NOT NULL,
        hash TEXT NOT NULL)""",
)
_VERSION_3 = (
    "ALTER TABLE versions ADD COLUMN lineage TEXT NOT NULL DEFAULT '{}'",
    "ALTER TABLE versions ADD COLUMN retired_at_s REAL",
)
_VERSION_4 = ("ALTER TABLE registry_events ADD COLUMN at_s REAL NOT NULL DEFAULT 0",)
# What makes a store of each version out of one of the version before.
STEPS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
SCHEMA_VERSION = len(STEPS)
