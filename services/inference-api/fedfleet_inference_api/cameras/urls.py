"""Takes the address of a camera apart, and shows it without what nobody else may read."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from fedfleet_inference_api.cameras.secrets import Secret

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
FILE = "file"
SCHEMES = (*PORTS, FILE)
NO_PASSWORD = Secret("")

# FFmpeg keeps both in 128 bytes, percent signs included, and cuts what is longer.
MOST_CREDENTIALS = 120
MOST_URL = 1000

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?"
)
_AMBIGUOUS = (
    "it is not clear where the host begins: give user and password as fields of their own, and "
    "write @ in a path as %40"
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a camera is.

    Args:
        path: with its query; of a file the path on this machine. It may hold a secret too (some
            cameras take the password there), so it is shown nowhere.
        user: as the camera knows it, without percent signs; ``password`` likewise.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: Secret
    user: str = field(default="", repr=False)
    password: Secret = NO_PASSWORD

    @property
    def is_file(self) -> bool:
        return self.scheme == FILE

    @property
    def is_encrypted(self) -> bool:
        return self.scheme in ("rtsps", "https")

    @property
    def shown(self) -> str:
        """Scheme, host and port: all of an address that is told to anybody."""
        return FILE if self.is_file else f"{self.scheme}://{bracketed(self.host)}:{self.port}"

    @property
    def userinfo(self) -> str:
        """User and password as they stand in a URL, escaped; empty without a user."""
        if not self.user and not self.password:
            return ""
        return f"{quote(self.user, safe='')}:{quote(self.password.reveal(), safe='')}@"

    def secrets(self) -> list[str]:
        """Every form in which what is secret here could come up in a text."""
        if self.is_file:
            return []
        path, password = self.path.reveal(), self.password.reveal()
        found = [password, quote(password, safe=""), quote(password), self.userinfo]
        if "=" in path:
            found += [path, path.partition("?")[2], unquote(path)]
        return [text for text in dict.fromkeys(found) if text]


def parse_place(url: str) -> Place:
    """Take a URL apart; a text without a scheme is no URL.

    Passwords may hold ``@``, ``:`` and ``%`` as they are (the last ``@`` before the path counts).
    One with ``/``, ``?`` or ``#`` cannot be told from a path, so it must be escaped.

    Raises:
        ValueError: it cannot be used; the text never repeats it.
    """
    scheme, mark, rest = url.strip().partition(":")
    scheme = scheme.lower()
    if not mark or scheme not in SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{one}:' for one in SCHEMES)}")
    if len(url) > MOST_URL or not url.isprintable():
        raise ValueError(f"must be at most {MOST_URL} printable characters")
    if scheme == FILE:
        path = rest.removeprefix("//")
        if not path:
            raise ValueError("must name a file behind file:")
        return Place(scheme=FILE, path=Secret(path))
    if not rest.startswith("//"):
        raise ValueError(f"must have // behind {scheme}:")
    return _remote(scheme, rest[2:])


def _remote(scheme: str, rest: str) -> Place:
    authority, path = _split_path(rest)
    if "@" in path:
        raise ValueError(_AMBIGUOUS)
    userinfo, _, address = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    host, port = _host_and_port(address, PORTS[scheme])
    place = Place(
        scheme=scheme,
        host=host,
        port=port,
        path=Secret(quote(path, safe="/?&=+,;:!$'()*~%-._[]|") or "/"),
        user=unquote(user),
        password=Secret(unquote(password)),
    )
    if len(place.userinfo) > MOST_CREDENTIALS:
        raise ValueError("user and password are too long together")
    if not (place.user + place.password.reveal()).isprintable():
        raise ValueError("user and password must be printable characters")
    if ":" in place.user:
        raise ValueError("a user's name has no colon")
    return place


def _split_path(rest: str) -> tuple[str, str]:
    """Where the first of ``/``, ``?`` and ``#`` stands; a fragment is not sent."""
    end = min((i for i in map(rest.find, "/?#") if i >= 0), default=len(rest))
    return rest[:end], rest[end:].partition("#")[0]


def _host_and_port(address: str, default: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d{1,5}))?", address)
    if match is None:
        raise ValueError("must have HOST or HOST:PORT, an IPv6 address in brackets")
    port = int(match[2]) if match[2] else default
    if not 0 < port <= 65535:
        raise ValueError("must have a port from 1 to 65535")
    return _checked_host(match[1]), port


def _checked_host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError("the brackets must hold an IPv6 address") from None
    if not _HOST_NAME.fullmatch(text):
        raise ValueError("must name a host")
    return text.lower().rstrip(".")


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def with_credentials(url: str, user: str, password: str) -> str:
    """The URL with these in it, escaped.

    Raises:
        ValueError: it has some already, or is no URL that takes them.
    """
    scheme, mark, rest = url.strip().partition("://")
    if not mark or "@" in _split_path(rest)[0]:
        raise ValueError("has user and password already: give them once")
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"
