"""Keeps what is secret out of the log: known secrets, and what stands before the @ of a URL."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Container, Iterable
from typing import Any

HIDDEN = "***"
# Of a shorter one every second word would be hidden, and the rest be told by the gaps.
LEAST_LENGTH = 4

# The last @ counts: passwords hold some. Quotes and spaces end a URL in a text.
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,15}://)[^\s\"'<>]*@")

_lock = threading.Lock()
_counts: Counter[str] = Counter()
_known: tuple[str, ...] = ()


def hide_secrets(secrets: Iterable[str]) -> None:
    """From now on write ``***`` where one of these would stand in a record of the log."""
    _change(secrets, 1)


def forget_secrets(secrets: Iterable[str]) -> None:
    """Take back one ``hide_secrets``."""
    _change(secrets, -1)


def _change(secrets: Iterable[str], by: int) -> None:
    global _known
    with _lock:
        for secret in secrets:
            if len(secret) >= LEAST_LENGTH:
                _counts[secret] = max(0, _counts[secret] + by)
        # The longest first: it may hold a shorter one.
        for secret in [secret for secret, count in _counts.items() if not count]:
            del _counts[secret]
        _known = tuple(sorted(_counts, key=len, reverse=True))


def redact(text: str) -> str:
    """A text without known secrets, and without the user and password of any URL."""
    for secret in _known:
        text = text.replace(secret, HIDDEN)
    return _USERINFO.sub(rf"\1{HIDDEN}@", text) if "@" in text else text


def redact_line(line: str, kept: Container[str]) -> str:
    """One line of JSON, an object, with the texts in it redacted, but for those of ``kept`` keys.

    The texts, not the line: in it they are escaped, and a secret could be a key's name.
    """
    if not _known and "@" not in line:
        return line
    fields = json.loads(line)
    return json.dumps({k: v if k in kept else _redacted(v) for k, v in fields.items()})


def _redacted(value: Any) -> Any:
    """Any: whatever JSON can hold."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(key): _redacted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return value
