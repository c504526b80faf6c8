"""Certificates and their records: what is issued is in the store first, what is revoked too."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from fedfleet.errors import (
    CertificateInvalid,
    NotAllowed,
    NotFound,
    StoreUnavailable,
    TokenInvalid,
    Unauthenticated,
)
from fedfleet.identity.authority import Authority, Issued
from fedfleet.identity.names import Identity, Role
from fedfleet.identity.tokens import matches, new_token, split_token
from fedfleet.rpc.gate import Gate
from fedfleet.store.access import Access, CertificateRecord, TokenRecord
from fedfleet_coordinator.audit_trail import Trail
from fedfleet_coordinator.executors import Executors

# One text, so that nobody learns which part of a guess was right.
NOT_TAKEN = (
    "the token is not valid: it is unknown, was used, is over, or is for another name; "
    "an operator makes a new one"
)
NOT_RENEWED = "this certificate is not renewed: enrol again with a new token"
# Compared with where there is no token of an id: that takes as long.
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Terms:
    """How long what is issued lasts.

    Args:
        life_s: of a certificate.
        grace_s: after its end, in which it can be renewed.
    """

    life_s: float
    grace_s: float


class Issuing:
    """Issues certificates for tokens and for older certificates, and revokes them."""

    def __init__(
        self,
        authority: Authority,
        access: Access,
        executors: Executors,
        trail: Trail,
        gate: Gate,
        terms: Terms,
    ) -> None:
        self.root = authority.root
        self._authority = authority
        self._access = access
        self._executors = executors
        self._trail = trail
        self._gate = gate
        self._terms = terms

    async def make_token(self, role: Role, name: str, valid_s: float) -> tuple[str, TokenRecord]:
        """A token by which a name can enrol once; its text, which is kept nowhere, and its record.

        Raises:
            InvalidInput: not a name.
        """
        made = new_token(self._authority.pin)
        now_s = time.time()
        record = TokenRecord(
            token_id=made.id,
            secret_hash=made.secret_hash,
            role=role.value,
            name=name,
            created_at_s=now_s,
            expires_at_s=now_s + valid_s,
        )
        await self._trail.act(
            "token_create",
            f"{role.value}/{name}",
            lambda: self._executors.io(lambda: self._access.add_token(record)),
            token=record.token_id,
            valid_s=valid_s,
        )
        return made.text, record

    async def enrol(self, token: str, name: str, request_pem: bytes) -> Issued:
        """Trade a token for a certificate.

        Raises:
            TokenInvalid: it is not one for this name, or not any more.
            CertificateInvalid: nothing can be issued for the request; the token stays.
        """
        record = await self._executors.io(lambda: self._token(token, name))
        role, now_s = Role(record.role), time.time()
        issued = await self._executors.io(
            lambda: self._authority.issue(request_pem, role, name, now_s, self._terms.life_s)
        )
        certificate = record_of(issued.identity, now_s)

        def use() -> None:
            try:
                self._access.use_token(record.token_id, certificate)
            except NotFound as error:  # another call was faster
                raise TokenInvalid(NOT_TAKEN) from error

        who = issued.identity.text
        await self._trail.act(
            "enrol",
            who,
            lambda: self._executors.io(use),
            actor=who,
            token=record.token_id,
            serial=certificate.serial,
        )
        return issued

    async def renew(self, old: Identity, request_pem: bytes) -> Issued:
        """The certificate that follows one which its holder has shown.

        Raises:
            Unauthenticated: that was revoked, or is not known.
            CertificateInvalid: nothing can be issued for the request.
        """
        if self._gate.is_revoked(old.serial):
            raise Unauthenticated(NOT_RENEWED)
        now_s = time.time()
        issued = await self._executors.io(
            lambda: self._authority.issue(
                request_pem, old.role, old.name, now_s, self._terms.life_s
            )
        )
        certificate = record_of(issued.identity, now_s)

        def add() -> None:
            try:
                self._access.add_certificate(certificate, renews=old.serial)
            except (NotFound, NotAllowed) as error:
                raise Unauthenticated(NOT_RENEWED) from error

        await self._trail.act(
            "renew",
            old.text,
            lambda: self._executors.io(add),
            actor=old.text,
            serial=certificate.serial,
            renews=old.serial,
        )
        return issued

    async def holder_of_ended(self, certificate_pem: bytes, request_pem: bytes) -> Identity:
        """Who holds a certificate that was sent along, by a request that its key has signed.

        Raises:
            Unauthenticated: it is none of this coordinator's, or ended too long ago, or is not
                the request's, or was revoked.
        """
        now_s, grace_s = time.time(), self._terms.grace_s
        try:
            holder = await self._executors.io(
                lambda: self._authority.check_ended(certificate_pem, request_pem, now_s, grace_s)
            )
            # Before anything is written: whoever comes here has proved little.
            known = await self._executors.io(lambda: self._access.certificate(holder.serial))
        except (CertificateInvalid, NotFound) as error:
            raise Unauthenticated(NOT_RENEWED, detail=error.message) from error
        if known.revoked:
            raise Unauthenticated(NOT_RENEWED)
        return holder

    async def revoke(self, role: Role, name: str) -> int:
        """Make a name's certificates and tokens worthless, and end its calls at once.

        Returns:
            How many certificates are worthless now, also by an earlier revocation.

        Raises:
            NotFound: the name has no certificates and no tokens.
            StoreUnavailable: perhaps nothing was revoked, perhaps all; to be done again.
        """
        return await self._trail.act(
            "revoke", f"{role.value}/{name}", lambda: self._revoke(role, name)
        )

    async def _revoke(self, role: Role, name: str) -> int:
        has_token = await self._executors.io(lambda: self._has_token(role, name))
        try:
            await self._executors.io(lambda: self._access.revoke(role.value, name))
        except StoreUnavailable:
            # It may have been written all the same, and only the answer was lost.
            with suppress(StoreUnavailable):
                await self._shut_out(role, name)
            raise
        count = await self._shut_out(role, name)
        if not count and not has_token:
            raise NotFound(f"{role.value} {name} has no certificates and no tokens")
        return count

    async def _shut_out(self, role: Role, name: str) -> int:
        """Tell the gate all that is revoked of a name; returns how many certificates that is."""
        known = await self._executors.io(self._access.certificates)
        revoked = {
            record.serial
            for record in known
            if record.revoked and (record.role, record.name) == (role.value, name)
        }
        self._gate.revoke(revoked)
        return len(revoked)

    def _has_token(self, role: Role, name: str) -> bool:
        return any((t.role, t.name) == (role.value, name) for t in self._access.tokens())

    def _token(self, text: str, name: str) -> TokenRecord:
        try:
            token_id, secret, _ = split_token(text)
        except TokenInvalid as error:
            raise TokenInvalid(NOT_TAKEN) from error
        try:
            record = self._access.token(token_id)
        except NotFound as error:
            matches(secret, _NO_HASH)
            raise TokenInvalid(NOT_TAKEN) from error
        is_right = matches(secret, record.secret_hash)
        if not is_right or record.name != name or record.expires_at_s <= time.time():
            raise TokenInvalid(NOT_TAKEN)
        return record


def record_of(identity: Identity, now_s: float) -> CertificateRecord:
    """What the store keeps of a certificate."""
    return CertificateRecord(
        serial=identity.serial,
        role=identity.role.value,
        name=identity.name,
        issued_at_s=now_s,
        expires_at_s=identity.expires_at_s,
    )
