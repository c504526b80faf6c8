"""Small records for the tests of stores."""

from __future__ import annotations

import hashlib
from typing import Any

from fedfleet.store.access import CertificateRecord, KeyRecord, TokenRecord
from fedfleet.store.audit import Deed
from fedfleet.store.protocols import (
    Entry,
    RoundCommit,
    RunRecord,
    RunState,
    UpdateRecord,
    VersionRecord,
)
from fedfleet.types import Kind, ParamSpec, Schema

SCHEMA = Schema(
    (
        ParamSpec("dense.weight", (10, 64), Kind.TRAINABLE),
        ParamSpec("norm.mean", (10,), Kind.STATISTIC),
        ParamSpec("norm.batches", (), Kind.COUNTER),
    )
)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def a_run(run_id: str = "run-1", **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "run_id": run_id,
        "model": "digits",
        "recipe": '[model]\nname = "mlp"\n',
        "state": RunState.QUEUED,
        "rounds": 3,
        "created_at_s": 100.5,
        "updated_at_s": 100.5,
    }
    return RunRecord(**{**values, **changes})


def an_entry(run_id: str = "run-1", kind: str = "note", **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "run_id": run_id,
        "round": 1,
        "at_s": 101.25,
        "kind": kind,
        "fields": {"workers": ["a", "b"], "loss": 0.25, "text": "gr\u00fc\u00dfe", "none": None},
    }
    return Entry(**{**values, **changes})


def an_update(data: bytes = b"payload", **changes: Any) -> UpdateRecord:
    values: dict[str, Any] = {
        "run_id": "run-1",
        "round": 1,
        "assignment_id": "run-1/1/a",
        "worker_id": "a",
        "header": {"weight": 12.0, "sections": [{"name": "trainable", "elements": 640}]},
        "digest": digest_of(data),
        "size_bytes": len(data),
        "accepted_at_s": 102.0,
    }
    return UpdateRecord(**{**values, **changes})


def a_version(number: int = 1, data: bytes = b"weights", **changes: Any) -> VersionRecord:
    values: dict[str, Any] = {
        "model": "digits",
        "number": number,
        "digest": digest_of(data),
        "size_bytes": len(data),
        "schema": SCHEMA,
        "run_id": "run-1",
        "round": number,
        "parent": number - 1 or None,
        "created_at_s": 103.0,
        "card": {"model": {"name": "mlp"}, "classes": ["zero", "one"]},
        "metrics": {"accuracy": 0.5},
    }
    return VersionRecord(**{**values, **changes})


def an_import(number: int = 1, data: bytes = b"weights", **changes: Any) -> VersionRecord:
    """A version that no run has made."""
    values: dict[str, Any] = {
        "model": "old",
        "run_id": "",
        "round": 0,
        "parent": None,
        "lineage": {"imported": {"model": "elsewhere", "number": 7}},
    }
    return a_version(number, data, **{**values, **changes})


def a_commit(version: VersionRecord, **changes: Any) -> RoundCommit:
    values: dict[str, Any] = {
        "run_id": version.run_id,
        "round": version.round,
        "version": version,
        "memory_digest": "",
        "aliases": ("latest",),
        "entry": an_entry(version.run_id, "round_committed", round=version.round, at_s=104.0),
    }
    return RoundCommit(**{**values, **changes})


def a_token(token_id: str = "t1", **changes: Any) -> TokenRecord:
    values: dict[str, Any] = {
        "token_id": token_id,
        "secret_hash": digest_of(token_id.encode()),
        "role": "worker",
        "name": "pi-8",
        "created_at_s": 10.5,
        "expires_at_s": 3610.5,
    }
    return TokenRecord(**{**values, **changes})


def a_certificate(serial: str = "5f", **changes: Any) -> CertificateRecord:
    values: dict[str, Any] = {
        "serial": serial,
        "role": "worker",
        "name": "pi-7",
        "issued_at_s": 20.25,
        "expires_at_s": 1000.25,
    }
    return CertificateRecord(**{**values, **changes})


def a_key(key_id: str = "k1", **changes: Any) -> KeyRecord:
    values: dict[str, Any] = {
        "key_id": key_id,
        "secret_hash": digest_of(key_id.encode()),
        "name": "dashboard",
        "scopes": ("predict", "models:read"),
        "created_at_s": 30.125,
    }
    return KeyRecord(**{**values, **changes})


def a_deed(action: str = "token_create", **changes: Any) -> Deed:
    values: dict[str, Any] = {
        "at_s": 40.75,
        "actor": "operator/ada",
        "action": action,
        "object": "worker/pi-7",
        "fields": {"token": "t1", "life_s": 3600.0, "roles": ["worker"], "note": None},
    }
    return Deed(**{**values, **changes})
