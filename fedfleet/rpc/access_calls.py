"""The blocking calls about who may come in: tokens, certificates, keys, the audit log."""

from __future__ import annotations

from collections.abc import Sequence

from fedfleet.rpc.connection import Connection
from fedfleet.v1 import control_service_pb2 as pb


class AccessCalls:
    """A part of ``ControlClient``; answers are the coordinator's messages."""

    _connection: Connection

    def create_token(
        self, name: str, role: pb.Role.ValueType = pb.ROLE_WORKER, valid_s: float = 0.0
    ) -> pb.CreateTokenResponse:
        """Make a single-use token for a name; the answer is the only place that shows it.

        Args:
            valid_s: 0 is an hour.
        """
        request = pb.CreateTokenRequest(worker_id=name, role=role, valid_s=valid_s)
        with self._connection.errors():
            return self._connection.control.CreateToken(request, timeout=self._connection.timeout_s)

    def list_tokens(self) -> list[pb.Token]:
        """Ask for the tokens that were not used yet, in order of their making."""
        with self._connection.errors():
            request = pb.ListTokensRequest()
            timeout_s = self._connection.timeout_s
            return list(self._connection.control.ListTokens(request, timeout=timeout_s).tokens)

    def delete_token(self, token_id: str) -> None:
        """Make a token worthless."""
        with self._connection.errors():
            request = pb.DeleteTokenRequest(token_id=token_id)
            self._connection.control.DeleteToken(request, timeout=self._connection.timeout_s)

    def revoke_worker(self, worker_id: str) -> int:
        """Make a worker's certificates and tokens worthless; returns how many certificates."""
        with self._connection.errors():
            request = pb.RevokeWorkerRequest(worker_id=worker_id)
            timeout_s = self._connection.timeout_s
            return self._connection.control.RevokeWorker(request, timeout=timeout_s).certificates

    def revoke_operator(self, name: str, role: pb.Role.ValueType = pb.ROLE_OPERATOR) -> int:
        """Do the same with an operator's or an observer's."""
        with self._connection.errors():
            request = pb.RevokeOperatorRequest(name=name, role=role)
            timeout_s = self._connection.timeout_s
            return self._connection.control.RevokeOperator(request, timeout=timeout_s).certificates

    def create_key(
        self, name: str, scopes: Sequence[str], valid_s: float = 0.0
    ) -> pb.CreateKeyResponse:
        """Make a key for the REST interface; the answer is the only place that shows it.

        Args:
            valid_s: 0 is no end.
        """
        with self._connection.errors():
            request = pb.CreateKeyRequest(name=name, scopes=scopes, valid_s=valid_s)
            return self._connection.control.CreateKey(request, timeout=self._connection.timeout_s)

    def list_keys(self) -> list[pb.Key]:
        """Ask for the keys, in order of their making."""
        with self._connection.errors():
            request = pb.ListKeysRequest()
            timeout_s = self._connection.timeout_s
            return list(self._connection.control.ListKeys(request, timeout=timeout_s).keys)

    def revoke_key(self, key_id: str) -> None:
        """Make a key worthless."""
        with self._connection.errors():
            request = pb.RevokeKeyRequest(key_id=key_id)
            self._connection.control.RevokeKey(request, timeout=self._connection.timeout_s)

    def list_audit(self, after_number: int = 0, limit: int = 0) -> list[pb.AuditRecord]:
        """Ask for records of the audit log after a number, at most 1000 (which 0 asks for)."""
        with self._connection.errors():
            request = pb.ListAuditRequest(after_number=after_number, limit=limit)
            timeout_s = self._connection.timeout_s
            return list(self._connection.control.ListAudit(request, timeout=timeout_s).records)
