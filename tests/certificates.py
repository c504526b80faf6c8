"""Certificates for tests, of real authorities."""

from __future__ import annotations

import time
from pathlib import Path

from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials, certificate_request, new_key
from fedfleet.identity.names import Role


def issued(
    ca: Path, name: str, role: Role = Role.WORKER, *, life_s: float = 3600.0, ago_s: float = 0.0
) -> Credentials:
    """Credentials that an authority has issued without a record of it; one is made where none is.

    Args:
        ago_s: how long ago.
    """
    authority, key = Authority.open(ca), new_key()
    made = authority.issue(certificate_request(key), role, name, time.time() - ago_s, life_s)
    return Credentials(key, made.chain, authority.root)
