"""TLS as grpc takes it; a server's certificate may change while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import grpc

from fedfleet.errors import FedFleetError
from fedfleet.identity.credentials import Credentials

logger = logging.getLogger(__name__)

# As grpc takes them.
Options: TypeAlias = "tuple[tuple[str, int | str], ...]"


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    """What a channel shows, and whom it trusts: the given root alone, none of the system's."""
    return grpc.ssl_channel_credentials(credentials.root, credentials.key, credentials.chain)


def name_options(target_name: str) -> Options:
    """Expect a name in the server's certificate; empty leaves it to be that of the address."""
    return (("grpc.ssl_target_name_override", target_name),) if target_name else ()


def server_credentials(
    fetch: Callable[[], Credentials], client_root: bytes | None
) -> grpc.ServerCredentials:
    """What a server shows, and whose certificates it asks for.

    Args:
        fetch: asked at each handshake, in a thread of grpc's: so a certificate is renewed without
            a restart. Where it raises an error of ours, the one before stays.
        client_root: PEM of who signs the callers' certificates; None asks callers for none.
    """

    def configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
        pair = (credentials.key, credentials.chain)
        return grpc.ssl_server_certificate_configuration([pair], client_root)

    shown = fetch()

    def current() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        try:
            credentials = fetch()
        except FedFleetError as error:
            fields = {"code": error.code, "reason": error.message}
            logger.error("server_certificate_not_renewed", extra=fields)
            return None
        if credentials == shown:
            return None  # grpc keeps what it has
        shown = credentials
        return configuration(credentials)

    return grpc.dynamic_ssl_server_credentials(
        configuration(shown),
        current,  # type: ignore[arg-type]  # may be None, says grpc's own text
        require_client_authentication=client_root is not None,
    )
