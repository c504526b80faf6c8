"""One connection to a Redis server, by what redis-py has had in every release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Union, cast

from redis import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ResponseError

from fedfleet.errors import InvalidInput
from fedfleet.store.redis_url import RedisAddress

Argument = Union[str, bytes, int, float]
# What a server sends: bytes, whole numbers, None, lists of these.
Reply = Any
Command = Sequence[Union[str, bytes]]

# How long to wait for one answer.
ANSWER_S = 1.0

_MOST = 2**53  # beyond it Lua's numbers are not whole any more


class Wire(Protocol):
    """What is used of redis-py's connections; they connect when something is sent."""

    socket_timeout: float

    def pack_commands(self, commands: Sequence[Command]) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes]) -> None: ...
    def read_response(self) -> Reply: ...
    def disconnect(self) -> None: ...


class Lane:
    """A connection and the sequence of writes that goes over it, one at a time.

    Attributes:
        number: of the last write.
        in_doubt: whether nobody knows if that one happened.
    """

    def __init__(self, wire: Wire, key: bytes) -> None:
        self.wire = wire
        self.key = key
        self.number = 0
        self.in_doubt = False


def connection_to(address: RedisAddress) -> Wire:
    """A connection that tries nothing again by itself."""
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.username or None,
        "password": address.password or None,
        "socket_timeout": ANSWER_S,
        "protocol": 2,  # the default differs by release
    }
    kind: Any = Connection
    if address.path:
        kind = UnixDomainSocketConnection
        options |= {"path": address.path}
    else:
        options |= {
            "host": address.host,
            "port": address.port,
            "socket_connect_timeout": ANSWER_S,
            "socket_keepalive": True,
        }
    if address.tls:
        kind = SSLConnection
        options |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": address.ca or None,
            "ssl_certfile": address.cert or None,
            "ssl_keyfile": address.key or None,
        }
    return cast("Wire", kind(**options))


def exchange(wire: Wire, commands: Sequence[Command]) -> list[Reply]:
    """Send commands and return the answers; a refusal is one of them."""
    wire.send_packed_command(wire.pack_commands(commands))
    return [_answer(wire) for _ in commands]


def encoded(value: Argument) -> bytes:
    """A value as the server keeps it.

    Raises:
        InvalidInput: it cannot be.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"a value cannot be stored: {error}") from error
    if isinstance(value, int) and not -_MOST < value < _MOST:
        raise InvalidInput(f"a value cannot be stored: {value} is too large")
    return repr(value).encode()


def _answer(wire: Wire) -> Reply:
    try:
        return wire.read_response()
    except ResponseError as error:
        return error
