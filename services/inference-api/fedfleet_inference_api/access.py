"""The outermost layer of every request: counts, times, adds headers, catches the unexpected."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedfleet.errors import FedFleetError
from fedfleet_inference_api.answers import HEADERS, error_response
from fedfleet_inference_api.metrics import Metrics

logger = logging.getLogger(__name__)

REQUEST_ID = b"x-request-id"
# What a caller's own id may be; another one is replaced, so that it can be logged and sent back.
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Access:
    """Wrap the application.

    Here an exception that no handler knew becomes INTERNAL: the caller gets a fixed text, the log
    the traceback. A caller that has left gets nothing: its request is counted as aborted, and as
    no error.

    Args:
        is_draining: asks whether the service is about to stop: then connections are closed behind
            their answers, so that callers that keep theirs open look elsewhere in time.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._metrics = metrics
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["x-request-id"] = request_id
                if self._is_draining():
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except ClientDisconnect:
            pass  # nobody is there to be answered, and nobody is to blame
        except Exception:
            logger.exception(
                "request_failed", extra={"path": scope["path"], "request_id": request_id}
            )
            if status:
                raise  # half an answer is out: the server has to break the connection
            error = FedFleetError("an internal error: see the service's log")
            self._metrics.errors.labels(error.code).inc()
            response = error_response(error, path=scope["path"])
            await response(scope, receive, with_headers)
        finally:
            route = _route(scope)
            self._metrics.requests.labels(route, str(status or "aborted")).inc()
            self._metrics.request_s.labels(route).observe(time.perf_counter() - started_s)


def request_id_of(scope: Scope) -> str:
    """The caller's id of its request, or a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _ID.fullmatch(value):
            return str(value.decode("ascii"))
    return uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The path's template, so that the paths of callers make no labels."""
    return str(getattr(scope.get("route"), "path", "other"))
