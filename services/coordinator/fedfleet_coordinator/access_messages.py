"""Tokens, keys and the audit log's records as messages of the control service."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fedfleet.errors import InvalidInput
from fedfleet.identity.names import Role
from fedfleet.store.access import KeyRecord, TokenRecord
from fedfleet.store.audit import AuditRecord
from fedfleet.v1 import control_service_pb2 as pb

# The coordinator has a role too, for which nobody can ask.
_ROLES: Mapping[pb.Role.ValueType, Role] = {
    pb.ROLE_UNSPECIFIED: Role.WORKER,
    pb.ROLE_WORKER: Role.WORKER,
    pb.ROLE_OPERATOR: Role.OPERATOR,
    pb.ROLE_OBSERVER: Role.OBSERVER,
}
_MESSAGES = {role.value: message for message, role in _ROLES.items()}


def role_of(message: pb.Role.ValueType) -> Role:
    """The role that a message names; raises InvalidInput where it names none."""
    if message not in _ROLES:
        raise InvalidInput(f"role {message}: must be worker, operator or observer")
    return _ROLES[message]


def token_message(token: TokenRecord) -> pb.Token:
    return pb.Token(
        token_id=token.token_id,
        name=token.name,
        role=_MESSAGES[token.role],
        created_at_s=token.created_at_s,
        expires_at_s=token.expires_at_s,
    )


def key_message(key: KeyRecord) -> pb.Key:
    return pb.Key(
        key_id=key.key_id,
        name=key.name,
        scopes=key.scopes,
        created_at_s=key.created_at_s,
        expires_at_s=key.expires_at_s,
    )


def audit_message(record: AuditRecord) -> pb.AuditRecord:
    return pb.AuditRecord(
        number=record.number,
        at_s=record.at_s,
        actor=record.actor,
        action=record.action,
        object=record.object,
        fields_json=json.dumps(dict(record.fields)),
        hash=record.hash,
    )
