"""The certificate for HTTPS, taken up anew when its files change."""

from __future__ import annotations

import logging
import math
import ssl
from pathlib import Path

from fedfleet.errors import CertificateInvalid, NotFound, SettingInvalid, StoreUnavailable
from fedfleet.identity.files import read_public
from fedfleet.identity.inspection import view_of
from fedfleet_inference_api.config import InferenceConfig

logger = logging.getLogger(__name__)

DAY_S = 86400.0
# Whoever renews by hand has this long, and is told each day.
WARN_BEFORE_S = 14 * DAY_S


class ServerCertificate:
    """A TLS context whose certificate can be replaced while it is used.

    Args:
        certificate, key: files in PEM.

    Raises:
        SettingInvalid: they cannot be read, or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._stamp = self._look()
        self._warn_at_s = -math.inf
        try:
            self.context = self._load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise SettingInvalid(
                "FEDFLEET_INFERENCE_CERTIFICATE and FEDFLEET_INFERENCE_KEY cannot be used: "
                f"{error.args[-1] if error.args else error}"
            ) from error
        self.ends_at_s = self._end()

    def refresh(self) -> bool:
        """Take up files that have changed; those that cannot be used leave the old ones."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._load()  # into a context of its own: the one in use is never half replaced
            self.context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (OSError, ValueError):
            logger.warning("certificate_refused", exc_info=True)
            return False
        self.ends_at_s, self._warn_at_s = self._end(), -math.inf
        logger.info("certificate_replaced")
        return True

    def warn_of_end(self, now_s: float) -> None:
        """Log a warning, once a day, where the certificate ends soon or has ended.

        Args:
            now_s: since the epoch.
        """
        left_s = self.ends_at_s - now_s
        if left_s < WARN_BEFORE_S and now_s >= self._warn_at_s:
            self._warn_at_s = now_s + DAY_S
            logger.warning("certificate_ends_soon", extra={"left_days": round(left_s / DAY_S, 2)})

    def _end(self) -> float:
        """When the certificate ends, in seconds since the epoch; NaN where that cannot be read."""
        try:
            return view_of(self._certificate.name, read_public(self._certificate)).ends_at_s
        except (CertificateInvalid, NotFound, StoreUnavailable):
            logger.warning("certificate_end_unknown", exc_info=True)
            return math.nan

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        return context

    def _look(self) -> tuple[tuple[int, int], ...]:
        """When the files were last changed, and which they are."""
        try:
            states = [path.stat() for path in (self._certificate, self._key)]
        except OSError:
            return ()
        return tuple((state.st_mtime_ns, state.st_ino) for state in states)


def certificate_of(config: InferenceConfig) -> ServerCertificate | None:
    """The certificate of the settings, None where they ask for plain HTTP."""
    if config.inference_certificate is None or config.inference_key is None:
        return None
    return ServerCertificate(config.inference_certificate, config.inference_key)


def _no_password() -> str:
    """Instead of a question on the terminal."""
    raise ValueError("the key is encrypted: decrypt it, and let only this service read it")
