"""What the coordinator shows, whom it trusts, what it signs with: its own authority or files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from fedfleet.errors import SettingInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials, load_external
from fedfleet.identity.signing import Signer
from fedfleet.rpc.tls import server_credentials
from fedfleet_coordinator.config import DAY_S, CoordinatorConfig

logger = logging.getLogger(__name__)

# Of the coordinator's own certificate.
SERVER_LIFE_S = 30 * DAY_S


@dataclass(frozen=True)
class Trust:
    """What was opened.

    Args:
        authority: issues certificates; None where nobody does here.
        signer: of versions; None where there is no folder for its key.
        shown: of the gRPC port; None is without TLS.
    """

    authority: Authority | None
    signer: Signer | None
    shown: grpc.ServerCredentials | None

    def shown_to_strangers(self) -> grpc.ServerCredentials | None:
        """Of the enrolment port; None where there is none."""
        authority = self.authority
        return server_credentials(lambda: authority.enrolment, None) if authority else None


def open_trust(config: CoordinatorConfig) -> Trust:
    """Open what the settings name; keys that are missing are made.

    Raises:
        SettingInvalid: there is no folder for an authority that is needed.
        CertificateInvalid, NotFound, StoreFull, StoreUnavailable: a file cannot be used.
    """
    folder = config.authority_folder
    files = (config.server_certificate, config.server_key, config.client_root)
    if config.uses_tls and not any(files):
        if folder is None:
            raise SettingInvalid(
                "FEDFLEET_CA_DIR is not set: with a redis store, TLS needs a folder for the "
                "certificate authority, which outlives this machine and which a standby shares"
            )
        authority = Authority.open(folder)
        renewed = Renewed(lambda: authority.server_credentials(time.time(), SERVER_LIFE_S))
        shown = server_credentials(renewed.current, authority.root)
        return Trust(authority, authority.signer, shown)
    signer = Signer.open(folder) if folder else None
    if signer is None:
        logger.warning("versions_not_signed", extra={"reason": "FEDFLEET_CA_DIR is not set"})
    if not config.uses_tls:
        return Trust(None, signer, None)
    certificate, key, root = files
    assert certificate is not None
    assert key is not None
    assert root is not None
    # Read at each handshake: whoever renews the files need not tell us. The root at start only.
    read = load_external(certificate, key, root)
    shown = server_credentials(lambda: load_external(certificate, key, root), read.root)
    return Trust(None, signer, shown)


class Renewed:
    """Credentials that are made again in time, whoever asks for them; from any thread."""

    def __init__(self, make: Callable[[], Credentials]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._credentials = make()
        self._renew_at_s = self._credentials.renew_at_s(0.0)

    def current(self) -> Credentials:
        """Raises what making raises; the former ones are kept until it succeeds."""
        with self._lock:
            if time.time() >= self._renew_at_s:
                self._credentials = self._make()
                self._renew_at_s = self._credentials.renew_at_s(0.0)
                logger.info("server_certificate_renewed")
            return self._credentials
