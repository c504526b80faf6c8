"""Fetches an image that a caller names by a URL, without being led into the own network.

Server-side request forgery is what this is built against: only https, names are resolved once and
each of their addresses has to be a public one, the connection goes to the address that was looked
at (with the name for TLS), each redirect is looked at anew, sizes and times are bounded, and a
caller is told that it failed, not why: else it could find out what answers where.

No proxy is used: behind one, nothing of this would hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import h11

from fedfleet.errors import ImageUrlFailed, InvalidInput, Unavailable
from fedfleet_inference_api.aside import Aside
from fedfleet_inference_api.body_limit import Hold
from fedfleet_inference_api.image_hosts import ImageHosts, is_public
from fedfleet_inference_api.uploads import MAX_URL

logger = logging.getLogger(__name__)

PORT = 443
MAX_REDIRECTS = 3
MAX_FETCHES = 8  # at once; each may hold a whole body
MAX_HEADER_BYTES = 16 * 1024
TIMEOUT_S = 5.0
CHUNK_BYTES = 64 * 1024
REDIRECTS = {301, 302, 303, 307, 308}

FAILED = "the image behind the URL could not be fetched"

# Gives all addresses of a host.
Resolve = Callable[[str], Awaitable[list[str]]]
# Opens a TCP connection to an address and a port.
Dial = Callable[[str, int], Awaitable[socket.socket]]


class _FetchError(Exception):
    """Why a fetch came to nothing; for the log, never for the caller."""


@dataclass(frozen=True)
class _Place:
    """An https URL, taken apart.

    Args:
        target: path and query.
    """

    host: str
    target: str


class Names:
    """Looks up hosts as the system does, on threads that nothing else needs.

    A look-up cannot be ended: one that nobody waits for any more counts until it has ended.
    """

    def __init__(self) -> None:
        self._aside = Aside("image-url-names", MAX_FETCHES)

    async def resolve(self, host: str) -> list[str]:
        """All addresses of a host.

        Raises:
            OSError, UnicodeError: it has none, or nobody could be asked.
            Unavailable: too many are being looked up.
        """
        found = await self._aside.run(lambda: _look_up(host))
        if isinstance(found, Exception):
            raise found
        return found


def _look_up(host: str) -> list[str] | OSError | UnicodeError:
    try:
        found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return error
    return [str(address[0]) for *_, address in found]


async def dial(address: str, port: int) -> socket.socket:
    """Connect; the caller closes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except BaseException:
        connection.close()
        raise
    return connection


class ImageUrls:
    """Fetches images over https from hosts that are allowed.

    Args:
        max_bytes: of an image.
        context: of TLS; has to check certificates and names.
        resolve_host, dial_address: how names become addresses and addresses connections; None:
            as the system does, on threads of its own.
    """

    def __init__(
        self,
        hosts: ImageHosts,
        max_bytes: int,
        *,
        timeout_s: float = TIMEOUT_S,
        context: ssl.SSLContext | None = None,
        resolve_host: Resolve | None = None,
        dial_address: Dial = dial,
    ) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._context = context or ssl.create_default_context()
        self._resolve = resolve_host or Names().resolve
        self._dial = dial_address
        self._fetches = 0

    async def fetch(self, url: str, hold: Hold = lambda came_bytes: None) -> bytes:
        """The bytes behind a URL.

        Args:
            hold: told of each number of bytes that come; an error of it ends the fetch.

        Raises:
            InvalidInput: the URL is none that is fetched here; known without looking anywhere.
            ImageUrlFailed: they did not come, for whatever reason.
            Unavailable: too many others are being fetched.
        """
        place = self._place(url)
        if self._fetches >= MAX_FETCHES:
            raise Unavailable(f"{MAX_FETCHES} images are being fetched already: try again")
        self._fetches += 1
        try:
            return await asyncio.wait_for(self._follow(url, place, hold), self._timeout_s)
        except (_FetchError, OSError, h11.ProtocolError, UnicodeError) as why:
            raise self._failed(place, why) from why
        except asyncio.TimeoutError as why:
            raise self._failed(place, why) from why
        finally:
            self._fetches -= 1

    def _failed(self, place: _Place, why: BaseException) -> ImageUrlFailed:
        logger.info("image_url_failed", extra={"host": place.host, "reason": repr(why)})
        return ImageUrlFailed(FAILED)

    def _place(self, url: str) -> _Place:
        """Take a URL apart and hold it to the settings."""
        if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
            raise InvalidInput(f"url: must be printable ASCII of at most {MAX_URL} characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidInput("url: cannot be read") from error
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme != "https" or not host:
            raise InvalidInput("url: must begin with https:// and a host")
        if parts.username is not None or parts.password is not None:
            raise InvalidInput("url: must not hold a user or a password")
        if port not in (None, PORT) or "\\" in url:
            raise InvalidInput(f"url: images are fetched from port {PORT} only")
        if not self._hosts.allows(host):
            raise InvalidInput("url: images are not fetched from this host")
        target = parts.path or "/"
        return _Place(host, f"{target}?{parts.query}" if parts.query else target)

    async def _follow(self, url: str, place: _Place, hold: Hold) -> bytes:
        for _ in range(1 + MAX_REDIRECTS):
            found = await self._get(place, hold)
            if isinstance(found, bytes):
                return found
            try:
                url = urljoin(url, found)
                place = self._place(url)
            except (InvalidInput, ValueError) as error:
                raise _FetchError("led to a URL that is not fetched") from error
        raise _FetchError("too many redirects")

    async def _get(self, place: _Place, hold: Hold) -> bytes | str:
        """The body, or where a redirect leads."""
        addresses = await self._resolve(place.host)
        if not addresses or not all(is_public(address) for address in addresses):
            raise _FetchError("has an address that is not public")
        # The first one only: it is resolved in the order in which it should be tried, and trying
        # them all would tell by its time which of them answer.
        connection = await self._dial(addresses[0], PORT)
        try:
            reader, writer = await asyncio.open_connection(
                sock=connection, ssl=self._context, server_hostname=place.host
            )
        except BaseException:
            connection.close()
            raise
        try:
            return await self._exchange(reader, writer, place, hold)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await writer.wait_closed()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: _Place, hold: Hold
    ) -> bytes | str:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
        headers = [
            ("host", place.host),
            ("accept", "image/*"),
            ("accept-encoding", "identity"),
            ("user-agent", "fedfleet-inference-api"),
            ("connection", "close"),
        ]
        request = h11.Request(method="GET", target=place.target, headers=headers)
        for part in (request, h11.EndOfMessage()):
            writer.write(http.send(part) or b"")
        await writer.drain()
        body = bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(CHUNK_BYTES))
            elif isinstance(event, h11.Response):
                found = _head(event, self._max_bytes)
                if found is not None:
                    return found
            elif isinstance(event, h11.Data):
                hold(len(event.data))
                body += event.data
                if len(body) > self._max_bytes:
                    raise _FetchError("is too large")
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)
            elif not isinstance(event, h11.InformationalResponse):
                raise _FetchError("ended early")


def _head(response: h11.Response, max_bytes: int) -> str | None:
    """Look at an answer's head; where it leads, None where its body is the image."""
    headers = {name: value.decode("latin-1") for name, value in response.headers}
    if response.status_code in REDIRECTS:
        if b"location" not in headers:
            raise _FetchError("redirects to nowhere")
        return headers[b"location"]
    if response.status_code != 200:
        raise _FetchError(f"was answered with {response.status_code}")
    if headers.get(b"content-encoding", "identity").strip().lower() != "identity":
        raise _FetchError("is compressed")
    if int(headers.get(b"content-length", "0")) > max_bytes:
        raise _FetchError("is too large")
    return None
