"""Connects to a camera: to an address that was checked, with a certificate that was."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from fedfleet_inference_api.cameras.faults import SourceFailed, code_of_error
from fedfleet_inference_api.cameras.networks import CameraNetworks, NotAllowed, resolve
from fedfleet_inference_api.cameras.seen import CameraCode
from fedfleet_inference_api.cameras.urls import Place


def connect(
    place: Place, networks: CameraNetworks, *, timeout_s: float, ca_file: Path | None
) -> socket.socket:
    """Open the one connection to a camera.

    The name is resolved once, and the connection goes to the address that was checked; the
    certificate is checked against the name.

    Raises:
        SourceFailed: with the code of what is wrong.
    """
    try:
        plain = _open(resolve(place.host, place.port, networks), place.port, timeout_s)
    except NotAllowed:
        raise SourceFailed(CameraCode.NOT_ALLOWED) from None
    except UnicodeError:  # the resolver takes some names for none
        raise SourceFailed(CameraCode.UNREACHABLE) from None
    except OSError as error:
        raise SourceFailed(code_of_error(error)) from None
    if not place.is_encrypted:
        return plain
    try:
        context = ssl.create_default_context(cafile=ca_file)
        return context.wrap_socket(plain, server_hostname=place.host)
    except TimeoutError:
        plain.close()
        raise SourceFailed(CameraCode.TIMEOUT) from None
    except (OSError, ValueError):  # a wrong certificate, no TLS there, no such ca_file
        plain.close()
        raise SourceFailed(CameraCode.TLS_FAILED) from None


def _open(addresses: Sequence[str], port: int, timeout_s: float) -> socket.socket:
    """To the first that answers; the last one's error where none does."""
    *others, last = addresses
    for address in others:
        with contextlib.suppress(OSError):
            return socket.create_connection((address, port), timeout_s)
    return socket.create_connection((last, port), timeout_s)
