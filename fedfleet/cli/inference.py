"""Asks the inference service over HTTP, with the standard library."""

from __future__ import annotations

import json
import socket
import ssl
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from fedfleet.errors import (
    BodyTooLarge,
    CertificateInvalid,
    FedFleetError,
    SettingInvalid,
    TimedOut,
    Unauthenticated,
    Unavailable,
    error_for_code,
)
from fedfleet.rpc.exposure import check_exposure

CALL_S = 30.0
MAX_ANSWER_BYTES = 4 << 20


class _NoRedirect(HTTPRedirectHandler):
    """An image goes to the address that was checked, nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class InferenceClient:
    """One inference service.

    Args:
        url: for example ``http://127.0.0.1:8080``.
        insecure: FEDFLEET_INSECURE was set.
        api_key: sent with every request; empty sends none.
        root: an authority that is trusted for HTTPS beside the system's, in PEM; empty is none.

    Raises:
        SettingInvalid: not an http or https URL, or not a key.
        InsecureAddress: plain HTTP beyond loopback.
    """

    def __init__(
        self,
        url: str,
        *,
        insecure: bool = False,
        api_key: str = "",
        root: bytes = b"",
        timeout_s: float = CALL_S,
    ) -> None:
        try:
            parts = urlsplit(url)
            has_port = parts.port is None or parts.port > 0
        except ValueError as error:
            raise SettingInvalid(f"inference {url!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
            raise SettingInvalid(f"inference {url!r}: must be http://HOST:PORT or https://HOST")
        self.url = url.rstrip("/")
        self.host = parts.hostname
        self.is_plain = parts.scheme == "http"
        if self.is_plain:
            check_exposure(self.host, insecure, "the call to the inference service")
        if not (api_key.isascii() and api_key.isprintable()):
            raise SettingInvalid("FEDFLEET_API_KEY: not a key, as `fedfleet key create` prints it")
        self._headers = {"X-API-Key": api_key} if api_key else {}
        self._timeout_s = timeout_s
        # No proxy of the environment: it would see the images. Any: urllib takes classes too.
        handlers: list[Any] = [ProxyHandler({}), _NoRedirect]
        if not self.is_plain:
            handlers.append(HTTPSHandler(context=_trusting(root)))
        self._opener = build_opener(*handlers)

    def predict(self, image: bytes, **wish: int | float | str | None) -> dict[str, Any]:
        """The service's answer to an image file's bytes, as JSON.

        Args:
            wish: parameters of ``POST /predict``; None leaves one out.

        Raises:
            FedFleetError: what the service answered; Unavailable, TimedOut where it did not.
        """
        named = {name: value for name, value in wish.items() if value is not None}
        query = f"?{urlencode(named)}" if named else ""
        request = Request(  # noqa: S310 - the scheme was checked
            f"{self.url}/predict{query}",
            data=image,
            headers={"Content-Type": "application/octet-stream", **self._headers},
        )
        return self._ask(request)

    def served(self) -> dict[str, Any]:
        """What the service answers with at this moment, as JSON."""
        url = f"{self.url}/served"
        return self._ask(Request(url, headers=self._headers))  # noqa: S310 - the scheme was checked

    def call(
        self, method: str, path: str, document: Any = None, *, most: int = MAX_ANSWER_BYTES
    ) -> bytes:
        """An answer's bytes; what is sent is JSON, None nothing. Any: whatever JSON can hold.

        Args:
            most: bytes that the answer may have.

        Raises:
            FedFleetError: as of ``predict``; BodyTooLarge for a longer answer.
        """
        headers = dict(self._headers)
        body = None
        if document is not None:
            body, headers["Content-Type"] = json.dumps(document).encode(), "application/json"
        url = f"{self.url}/{path}"
        request = Request(url, body, headers, method=method)  # noqa: S310 - as above
        return self._send(request, most)

    def document(self, method: str, path: str, document: Any = None) -> dict[str, Any]:
        """An answer's JSON object; else as ``call``."""
        return self._document(self.call(method, path, document))

    def _ask(self, request: Request) -> dict[str, Any]:
        return self._document(self._send(request))

    def _send(self, request: Request, most: int = MAX_ANSWER_BYTES) -> bytes:
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                body: bytes = answer.read(most + 1)
        except HTTPError as error:
            with error:
                raise self._error(error.code, error.read(MAX_ANSWER_BYTES)) from error
        except TimeoutError as error:
            raise TimedOut(f"{self.url} did not answer within {self._timeout_s:g} s") from error
        except URLError as error:
            if isinstance(error.reason, (socket.timeout, TimeoutError)):
                raise TimedOut(f"{self.url} did not answer within {self._timeout_s:g} s") from error
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise CertificateInvalid(
                    f"who answers at {self.url} is not trusted: {error.reason.verify_message}"
                ) from error
            raise Unavailable(
                f"no inference service answers at {self.url}; is it running?",
                detail=str(error.reason),
            ) from error
        except (OSError, ValueError, HTTPException) as error:
            raise Unavailable(f"the call to {self.url} broke off", detail=str(error)) from error
        if len(body) > most:
            raise BodyTooLarge(f"{self.url} answered with more than {most >> 20} MiB")
        return body

    def _document(self, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise FedFleetError(
                f"{self.url} answered something that is not a JSON object; is it FedFleet's?"
            )
        return document

    def _error(self, status: int, body: bytes) -> FedFleetError:
        """The error that an answer carries; a foreign server's has no code of ours."""
        try:
            error = json.loads(body)["error"]
            known = error_for_code(str(error["code"]), str(error["message"]))
        except (ValueError, KeyError, TypeError):
            return FedFleetError(f"{self.url} answered with HTTP status {status}")
        if isinstance(known, Unauthenticated) and not self._headers:
            return Unauthenticated(
                f"{self.url} asks for a key: set FEDFLEET_API_KEY to one that an operator makes "
                "with 'fedfleet key create --name NAME --scope predict' (of cameras: cameras:read, "
                "cameras:admin)"
            )
        return known


def _trusting(root: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if root:
        context.load_verify_locations(cadata=root.decode("ascii"))
    return context
