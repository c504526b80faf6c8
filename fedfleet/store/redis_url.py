"""The URL of a Redis store, read and checked. Its password is in no error, no log and no repr."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from fedfleet.errors import SettingInvalid

SCHEMES = ("redis", "rediss", "unix")
FORM = (
    "redis://USER:PASSWORD@HOST:PORT/DB?namespace=NAME, rediss:// with TLS, or "
    "unix://USER:PASSWORD@/PATH?db=DB&namespace=NAME"
)
DEFAULT_NAMESPACE = "default"

_PORT = 6379
_NAMESPACE = re.compile("[A-Za-z0-9._-]{1,64}")
_HOST = re.compile("[A-Za-z0-9._:%-]{1,253}")
_DATABASE = re.compile("[0-9]{1,6}")
_FILES = ("ca", "cert", "key")
_OPTIONS = {
    "redis": {"namespace", "durability"},
    "rediss": {"namespace", "durability", *_FILES},
    "unix": {"namespace", "durability", "db"},
}


@dataclass(frozen=True, kw_only=True)
class RedisAddress:
    """Where a store lies, and how to get in.

    Args:
        path: of a Unix socket; then there is no host.
        namespace: what all keys of this store carry, so that one server can hold several.
        ca, cert, key: PEM files for TLS; without ``ca`` the system's authorities count.
        relaxed: whether a server that may lose what it has acknowledged is accepted.
    """

    host: str = ""
    port: int = _PORT
    path: str = ""
    database: int = 0
    namespace: str = DEFAULT_NAMESPACE
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    relaxed: bool = False

    def __str__(self) -> str:
        """The place as people name it, without credentials."""
        if self.path:
            return f"unix://{self.path}, database {self.database}, namespace {self.namespace}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{host}:{self.port}/{self.database}, namespace {self.namespace}"


def parse_redis_url(url: str) -> RedisAddress:
    """The address that a URL names.

    Raises:
        SettingInvalid: it is none, or has an option that is not known.
    """
    shown = without_secrets(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # What Python says may hold the password.
        raise SettingInvalid(f"store {shown!r}: must be {FORM}") from None
    options = _options(parts, shown)
    is_socket = parts.scheme == "unix"
    files = {name: _file(name, options, shown) for name in _FILES}
    return RedisAddress(
        host="" if is_socket else _host(parts, shown),
        port=_PORT if port is None else port,
        path=_socket(parts, shown) if is_socket else "",
        database=_database(options.get("db", "") if is_socket else parts.path[1:], shown),
        namespace=_namespace(options, shown),
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=parts.scheme == "rediss",
        ca=files["ca"],
        cert=files["cert"],
        key=files["key"],
        relaxed=_is_relaxed(options, shown),
    )


def without_secrets(url: str) -> str:
    """A URL without what stands before an ``@`` or after a ``?``, whether it can be read or not."""
    head, at, tail = url.rpartition("@")
    shown = f"{head.partition(':')[0]}://***@{tail}" if at else url
    return shown.partition("?")[0]


def _options(parts: SplitResult, shown: str) -> dict[str, str]:
    known = _OPTIONS[parts.scheme]
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            # Which one is not said: behind a "?" in a password stands more of the password.
            raise SettingInvalid(
                f"store {shown!r}: has an option that is not known, there are "
                f"{', '.join(sorted(known))}; write a '?' in a password as %3F"
            )
        if name in options:
            raise SettingInvalid(f"store {shown!r}: option {name} is there twice")
        options[name] = value
    if ("cert" in options) != ("key" in options):
        raise SettingInvalid(f"store {shown!r}: options cert and key go together")
    if parts.fragment:
        raise SettingInvalid(f"store {shown!r}: there is nothing behind a '#'; write it as %23")
    return options


def _host(parts: SplitResult, shown: str) -> str:
    host = parts.hostname or ""
    if not _is_host(host):
        raise SettingInvalid(f"store {shown!r}: names no host; must be {FORM}")
    return host


def _is_host(text: str) -> bool:
    try:
        text.encode("idna")
    except UnicodeError:  # a label that is empty or too long, which a look-up chokes on
        return False
    return _HOST.fullmatch(text) is not None


def _socket(parts: SplitResult, shown: str) -> str:
    path = unquote(parts.path)
    if parts.hostname or not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise SettingInvalid(f"store {shown!r}: names no socket; must be {FORM}")
    return path


def _database(text: str, shown: str) -> int:
    if not text:
        return 0
    if not _DATABASE.fullmatch(text):
        raise SettingInvalid(f"store {shown!r}: the database must be a number")
    return int(text)


def _namespace(options: Mapping[str, str], shown: str) -> str:
    namespace = options.get("namespace", DEFAULT_NAMESPACE)
    if not _NAMESPACE.fullmatch(namespace):
        raise SettingInvalid(
            f"store {shown!r}: namespace must be 1 to 64 characters of A-Z a-z 0-9 . _ -"
        )
    return namespace


def _is_relaxed(options: Mapping[str, str], shown: str) -> bool:
    durability = options.get("durability", "full")
    if durability not in ("full", "relaxed"):
        raise SettingInvalid(f"store {shown!r}: durability must be full or relaxed")
    return durability == "relaxed"


def _file(name: str, options: Mapping[str, str], shown: str) -> str:
    if name not in options:
        return ""
    path = options[name]
    if not path or "\0" in path or not Path(path).is_file():
        raise SettingInvalid(f"store {shown!r}: option {name} must name a PEM file")
    return path
