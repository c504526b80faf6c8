"""The listening socket: takes the port before anything else, and holds so many connections."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from fedfleet.errors import AddressInUse, SettingInvalid

BACKLOG = 512
# Refused connections in one go, before the event loop gets to do anything else.
REFUSED_AT_ONCE = 64


class Door(socket.socket):
    """Accepts connections up to a number, and up to a number per group; closes what is more.

    Counting here, below TLS and HTTP, also bounds those that never say a word.

    Attributes:
        group: of a peer's address; empty is not counted as a group.
        refused: told ``address`` or ``all``, whichever limit it was.
    """

    most = BACKLOG
    most_per_group = BACKLOG
    group: Callable[[str], str] = staticmethod(lambda host: host)
    refused: Callable[[str], None] = staticmethod(lambda reason: None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held = 0
        self._groups: Counter[str] = Counter()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that there is room for; called by the event loop."""
        for _ in range(REFUSED_AT_ONCE):
            connection, address = super().accept()
            # A peer on a Unix socket has no address.
            group = self.group(address[0]) if isinstance(address, tuple) else ""
            if self.held >= self.most:
                reason = "all"
            elif group and self._groups[group] >= self.most_per_group:
                reason = "address"
            else:
                return self._hold(connection, group), address
            connection.close()
            self.refused(reason)
        raise BlockingIOError(errno.EAGAIN, "too many connections at once")

    def _hold(self, connection: socket.socket, group: str) -> socket.socket:
        self.held += 1
        if group:
            self._groups[group] += 1
        return _Held(self, group, connection)

    def let_go(self, group: str) -> None:
        self.held -= 1
        if group:
            self._groups[group] -= 1
            if not self._groups[group]:
                del self._groups[group]


class _Held(socket.socket):
    """An accepted connection that tells its door when it is closed."""

    def __init__(self, door: Door, group: str, connection: socket.socket) -> None:
        family, kind, protocol = connection.family, connection.type, connection.proto
        super().__init__(family, kind, protocol, fileno=connection.detach())
        self._door: Door | None = door
        self._group = group

    def close(self) -> None:
        super().close()
        door, self._door = self._door, None
        if door is not None:
            door.let_go(self._group)


def listen(host: str, port: int) -> Door:
    """Bind and listen; the caller closes.

    Raises:
        AddressInUse: another process has the port.
        SettingInvalid: the host is not an address of this machine, or the port is not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = Door(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} of {host} is taken by another process: stop it, or set "
                "FEDFLEET_INFERENCE_PORT to another port"
            ) from error
        raise SettingInvalid(
            f"cannot listen on {host} port {port}: {error.strerror or error}; look at "
            "FEDFLEET_HOST and FEDFLEET_INFERENCE_PORT"
        ) from error
    return listener
