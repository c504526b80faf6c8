"""Asks a camera for its MJPEG over HTTP, and gives the body as FFmpeg can read it.

FFmpeg's own HTTP client follows redirects wherever they lead, so it is not used.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import socket
from contextlib import suppress

from fedfleet_inference_api.cameras.faults import SourceFailed, code_of_status
from fedfleet_inference_api.cameras.heads import (
    MOST_HEAD,
    Head,
    HeadInvalid,
    end_of_head,
    parse_head,
)
from fedfleet_inference_api.cameras.seen import CameraCode
from fedfleet_inference_api.cameras.urls import Place, bracketed

_HASHES = {"MD5": "md5", "SHA-256": "sha256"}
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class HttpBody:
    """The body of an answer, until the camera ends it."""

    def __init__(self, connection: socket.socket, begun: bytes) -> None:
        self._connection = connection
        self._begun = begun

    def read(self, count: int) -> bytes:
        """What has come, at most so many bytes; waits for some. Empty: the end."""
        if self._begun:
            piece, self._begun = self._begun[:count], self._begun[count:]
            return piece
        return self._connection.recv(count)

    def close(self) -> None:
        """From any thread: one that waits in ``read`` hears of it."""
        with suppress(OSError):  # the camera was first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def ask(connection: socket.socket, place: Place, authorization: str) -> tuple[Head, HttpBody]:
    """Send a request and read the head of its answer. HTTP 1.0: the body is as it is sent.

    Raises:
        SourceFailed: what answered speaks no HTTP.
        OSError: the connection ended, or was silent for too long.
    """
    lines = [f"GET {place.path.reveal()} HTTP/1.0", f"Host: {bracketed(place.host)}:{place.port}"]
    lines += ["User-Agent: FedFleet", "Accept: multipart/x-mixed-replace, image/jpeg"]
    lines += [f"Authorization: {authorization}"] if authorization else []
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    data = b""
    try:
        while (end := end_of_head(data)) is None:
            more = connection.recv(MOST_HEAD)
            if not more:
                raise SourceFailed(CameraCode.ENDED)
            data += more
        head = parse_head(data[: end[0]])
    except HeadInvalid:
        raise SourceFailed(CameraCode.FAILED) from None
    return head, HttpBody(connection, data[end[1] :])


def check_answer(head: Head) -> None:
    """Refuse what is not a stream of pictures.

    Raises:
        SourceFailed: so it is; a redirect too.
    """
    code = code_of_status(head.status)
    if code is not CameraCode.NONE:
        raise SourceFailed(code)
    kind = head.first("content-type").lower()
    if not kind.startswith("multipart/"):
        raise SourceFailed(CameraCode.NO_VIDEO)
    if head.all("transfer-encoding"):
        raise SourceFailed(CameraCode.FAILED)


def authorize(head: Head, place: Place) -> str:
    """What proves to the camera who asks, empty where it wants what we do not have.

    Digest as RFC 7616 has it, before Basic (RFC 7617) where the camera takes both.
    """
    if not place.user and not place.password:
        return ""
    wanted = sorted(head.all("www-authenticate"), key=lambda text: text[:6].lower() != "digest")
    for challenge in wanted:
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "digest":
            answer = _digest(_parameters(rest), place)
            if answer:
                return answer
        if scheme.lower() == "basic":
            pair = f"{place.user}:{place.password.reveal()}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
    return ""


def _parameters(text: str) -> dict[str, str]:
    found = _PARAMETER.finditer(text)
    return {one[1].lower(): re.sub(r"\\(.)", r"\1", one[2] or "") or one[3] or "" for one in found}


def _digest(given: dict[str, str], place: Place) -> str:
    algorithm = given.get("algorithm", "MD5").upper()
    if algorithm not in _HASHES:
        return ""

    def hashed(*parts: str) -> str:
        return hashlib.new(_HASHES[algorithm], ":".join(parts).encode()).hexdigest()

    realm, nonce, uri = given.get("realm", ""), given.get("nonce", ""), place.path.reveal()
    secret = hashed(place.user, realm, place.password.reveal())
    asked = hashed("GET", uri)
    fields = {"username": place.user, "realm": realm, "nonce": nonce, "uri": uri}
    plain = {"algorithm": algorithm} if "algorithm" in given else {}
    if "auth" in [one.strip() for one in given.get("qop", "").split(",")]:
        own = secrets.token_hex(8)
        fields["response"] = hashed(secret, nonce, "00000001", own, "auth", asked)
        fields["cnonce"] = own
        plain |= {"qop": "auth", "nc": "00000001"}
    else:
        fields["response"] = hashed(secret, nonce, asked)
    if "opaque" in given:
        fields["opaque"] = given["opaque"]
    quoted = [f'{name}="{_escaped(value)}"' for name, value in fields.items()]
    return "Digest " + ", ".join([*quoted, *(f"{name}={value}" for name, value in plain.items())])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
