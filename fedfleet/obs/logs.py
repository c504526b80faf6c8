"""JSON logging: one line per record on stderr, with what the context knows added to each."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from fedfleet.errors import FedFleetError, SettingInvalid
from fedfleet.obs.redaction import redact_line

logger = logging.getLogger(__name__)

LEVELS = ("debug", "info", "warning", "error")
# Of what is printed without an end of the line.
MAX_PRINTED = 1 << 14

# What the current task or thread is busy with: run_id, round, worker_id and the like.
_context: ContextVar[Mapping[str, Any]] = ContextVar(
    "fedfleet_log_context", default=MappingProxyType({})
)

# Attributes that every record has: what else hangs on a record came from ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_NEVER_SECRET = frozenset({"time", "level", "service", "logger"})


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Add fields to every record of this task (or thread) inside the ``with`` block.

    The values are Any: whatever JSON cannot hold is written as its ``str``.
    """
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class JsonFormatter(logging.Formatter):
    """Render a record as one line of JSON.

    Line breaks and control characters in values come out escaped, so no value can end a line and
    forge a record; a field cannot replace the time, the level, the service or the event either.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        fixed: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        # A name with an underscore is a library's own mark on every record (Ray makes one).
        own = {key: value for key, value in vars(record).items() if not key.startswith("_")}
        extra = {key: value for key, value in own.items() if key not in _STANDARD}
        fields = {**_context.get(), **extra, **_error_fields(record)}
        line = _one_line({**fixed, **{k: v for k, v in fields.items() if k not in fixed}})
        return redact_line(line, _NEVER_SECRET)


def _error_fields(record: logging.LogRecord) -> dict[str, Any]:
    if not record.exc_info or record.exc_info[1] is None:
        return {}
    error = record.exc_info[1]
    fields = {"traceback": logging.Formatter().formatException(record.exc_info)}
    if isinstance(error, FedFleetError):
        fields["code"] = error.code
        if error.detail:
            fields["detail"] = error.detail
    return fields


def _one_line(fields: Mapping[str, Any]) -> str:
    """ASCII JSON; a value that JSON cannot hold (NaN, a cycle, an object) becomes its ``str``."""
    try:
        return json.dumps(fields, default=str, allow_nan=False)
    except (TypeError, ValueError):
        plain = (str, int, bool, type(None))
        return json.dumps({k: v if isinstance(v, plain) else str(v) for k, v in fields.items()})


def setup_logging(service: str, level: str) -> None:
    """Make every logger of this process write JSON lines to stderr, at this level and above.

    Args:
        service: stands in each line, for example ``coordinator``.
        level: one of ``LEVELS``.

    Raises:
        SettingInvalid: no such level.
    """
    if level.lower() not in LEVELS:
        raise SettingInvalid(f"log level {level!r}: must be one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


@contextmanager
def prints_as_records() -> Iterator[None]:
    """Log what libraries print on stderr inside the ``with`` block, a record for each line.

    grpc prints a traceback when a caller resets a call at once: whoever reads the log as lines of
    JSON would stumble over it.
    """
    with redirect_stderr(_Printed()):
        yield


class _Printed(io.TextIOBase):
    """Logs each line that is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = ""
        self._lock = threading.Lock()
        self._logging = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if getattr(self._logging, "now", False):
            return len(text)  # logging itself has failed, and says so here
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            if len(self._rest) > MAX_PRINTED:
                lines, self._rest = [*lines, self._rest], ""
        self._logging.now = True
        try:
            for line in filter(None, lines):
                logger.warning("printed", extra={"text": line[:MAX_PRINTED]})
        finally:
            self._logging.now = False
        return len(text)
