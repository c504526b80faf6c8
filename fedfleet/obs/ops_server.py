"""A small HTTP server on its own threads for liveness, readiness and metrics of a service."""

from __future__ import annotations

import errno
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from fedfleet.errors import AddressInUse, NotFound, SettingInvalid

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16  # a probe and a scraper or two; a flood must not become threads
READ_TIMEOUT_S = 5.0

Ready = Callable[[], "tuple[bool, str]"]


class OpsServer:
    """Serve ``/livez``, ``/readyz`` and ``/metrics`` until ``stop``.

    The event loop of the service may be busy or stuck: these answers do not wait for it.

    Args:
        port: 0 takes a free one; ``port`` then tells which.
        ready: whether the service can do its work, and a sentence that says why (not).
    """

    def __init__(self, host: str, port: int, ready: Ready, registry: CollectorRegistry) -> None:
        self._server = _bind(host, port, ready, registry)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="ops-server"
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and wait for the thread; no-op when never started."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> OpsServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _bind(host: str, port: int, ready: Ready, registry: CollectorRegistry) -> _Server:
    server_class = _Server6 if ":" in host else _Server
    try:
        return server_class((host, port), ready, registry)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} of {host} is taken by another process: choose another one"
            ) from error
        raise SettingInvalid(f"cannot listen on {host} port {port}: {error.strerror}") from error


class _Server(ThreadingHTTPServer):
    """Threads without end are refused: above the bound a connection is closed at once."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], ready: Ready, registry: CollectorRegistry) -> None:
        self.ready = ready
        self.registry = registry
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks the host name up, which can take seconds without a name server.
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what http.server would print; it calls this from its own except block."""
        logger.warning("ops_request_failed", exc_info=sys.exc_info())


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = READ_TIMEOUT_S
    server_version = "fedfleet"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/livez":
            self._answer(HTTPStatus.OK, {"live": True})
        elif path == "/readyz":
            is_ready, detail = self.server.ready()
            status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, {"ready": is_ready, "detail": detail})
        elif path == "/metrics":
            self._write(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self.server.registry))
        else:
            self._refuse(
                HTTPStatus.NOT_FOUND, NotFound.code, "there are /livez, /readyz and /metrics"
            )

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server itself refuses (a bad request line, another method)."""
        self.close_connection = True
        self._refuse(HTTPStatus(code), "INVALID_INPUT", message or HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: a probe every second is no news."""

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        self._answer(status, {"error": {"code": code, "message": message}})

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        self._write(status, "application/json", json.dumps(body).encode() + b"\n")

    def _write(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)
