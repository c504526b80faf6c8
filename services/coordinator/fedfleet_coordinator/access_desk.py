"""The part of ControlService about who may come in: tokens, certificates, keys, the audit log."""

from __future__ import annotations

import time

from fedfleet.errors import InvalidInput, NotServed
from fedfleet.identity.names import Role, check_name
from fedfleet.identity.tokens import new_key
from fedfleet.rpc.server import Context
from fedfleet.store.access import KeyRecord
from fedfleet.store.protocols import Store
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1 import control_service_pb2_grpc as pb_grpc
from fedfleet_coordinator.access_messages import audit_message, key_message, role_of, token_message
from fedfleet_coordinator.audit_trail import Trail
from fedfleet_coordinator.executors import Executors
from fedfleet_coordinator.issuing import Issuing

HOUR_S = 3600.0
MAX_TOKEN_S = 30 * 24 * HOUR_S
# What the inference service asks keys for.
KEY_SCOPES = ("predict", "models:read", "models:promote", "cameras:read", "cameras:admin")
MAX_AUDIT = 1000
_NOT_ISSUED = (
    "certificates are not issued by this coordinator: it runs without TLS (FEDFLEET_TLS=on), or "
    "with another authority's"
)


class AccessDesk(pb_grpc.ControlServiceServicer):
    """Serves operators.

    Args:
        issuing: None where certificates are not issued here.
    """

    def __init__(
        self, store: Store, executors: Executors, trail: Trail, issuing: Issuing | None
    ) -> None:
        self._access = store.access
        self._audit = store.audit
        self._executors = executors
        self._trail = trail
        self._issuing = issuing

    # Tokens

    async def CreateToken(
        self, request: pb.CreateTokenRequest, context: Context
    ) -> pb.CreateTokenResponse:
        issuing = self._issues()
        role, name = role_of(request.role), check_name(request.worker_id)
        valid_s = _valid_s(request.valid_s or HOUR_S, MAX_TOKEN_S)
        text, token = await issuing.make_token(role, name, valid_s)
        return pb.CreateTokenResponse(
            token=text, token_id=token.token_id, expires_at_s=token.expires_at_s
        )

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Context
    ) -> pb.ListTokensResponse:
        now_s = time.time()
        tokens = await self._executors.io(self._access.tokens)
        return pb.ListTokensResponse(
            tokens=[token_message(token) for token in tokens if token.expires_at_s > now_s]
        )

    async def DeleteToken(
        self, request: pb.DeleteTokenRequest, context: Context
    ) -> pb.DeleteTokenResponse:
        await self._trail.act(
            "token_delete",
            f"token/{request.token_id}",
            lambda: self._executors.io(lambda: self._access.delete_token(request.token_id)),
        )
        return pb.DeleteTokenResponse()

    # Certificates

    async def RevokeWorker(
        self, request: pb.RevokeWorkerRequest, context: Context
    ) -> pb.RevokeWorkerResponse:
        count = await self._issues().revoke(Role.WORKER, check_name(request.worker_id))
        return pb.RevokeWorkerResponse(certificates=count)

    async def RevokeOperator(
        self, request: pb.RevokeOperatorRequest, context: Context
    ) -> pb.RevokeOperatorResponse:
        role = role_of(request.role)
        if role is Role.WORKER:
            raise InvalidInput("role: must be operator or observer")
        count = await self._issues().revoke(role, check_name(request.name))
        return pb.RevokeOperatorResponse(certificates=count)

    # Keys

    async def CreateKey(
        self, request: pb.CreateKeyRequest, context: Context
    ) -> pb.CreateKeyResponse:
        scopes = tuple(dict.fromkeys(request.scopes))
        if not scopes or not set(scopes) <= set(KEY_SCOPES):
            raise InvalidInput(f"scopes: must be one or more of {', '.join(KEY_SCOPES)}")
        now_s, made = time.time(), new_key()
        ends_s = now_s + _valid_s(request.valid_s) if request.valid_s else 0.0
        key = KeyRecord(
            key_id=made.id,
            secret_hash=made.secret_hash,
            name=check_name(request.name),
            scopes=scopes,
            created_at_s=now_s,
            expires_at_s=ends_s,
        )
        await self._trail.act(
            "key_create",
            f"key/{key.key_id}",
            lambda: self._executors.io(lambda: self._access.add_key(key)),
            name=key.name,
            scopes=list(scopes),
            expires_at_s=ends_s,
        )
        return pb.CreateKeyResponse(key=made.text, key_id=made.id)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        keys = await self._executors.io(self._access.keys)
        return pb.ListKeysResponse(keys=[key_message(key) for key in keys])

    async def RevokeKey(
        self, request: pb.RevokeKeyRequest, context: Context
    ) -> pb.RevokeKeyResponse:
        await self._trail.act(
            "key_revoke",
            f"key/{request.key_id}",
            lambda: self._executors.io(lambda: self._access.delete_key(request.key_id)),
        )
        return pb.RevokeKeyResponse()

    # The audit log

    async def ListAudit(
        self, request: pb.ListAuditRequest, context: Context
    ) -> pb.ListAuditResponse:
        limit = min(request.limit or MAX_AUDIT, MAX_AUDIT)
        records = await self._executors.io(lambda: self._audit.records(request.after_number, limit))
        return pb.ListAuditResponse(records=[audit_message(record) for record in records])

    def _issues(self) -> Issuing:
        if self._issuing is None:
            raise NotServed(_NOT_ISSUED)
        return self._issuing


def _valid_s(valid_s: float, most_s: float = float("inf")) -> float:
    if not 0 < valid_s <= most_s or valid_s == float("inf"):
        limit = f" and at most {most_s:.0f}" if most_s < float("inf") else ""
        raise InvalidInput(f"valid_s {valid_s}: must be a number of seconds above 0{limit}")
    return valid_s
