"""What went wrong with a camera, as one of the codes that callers are told."""

from __future__ import annotations

import errno
import socket
import ssl

import av.error

from fedfleet_inference_api.cameras.seen import CameraCode

_STATUS = {
    401: CameraCode.AUTH_FAILED,
    403: CameraCode.AUTH_FAILED,
    404: CameraCode.NOT_FOUND,
    408: CameraCode.TIMEOUT,
    410: CameraCode.NOT_FOUND,
    415: CameraCode.CODEC_UNSUPPORTED,
    504: CameraCode.TIMEOUT,
}

# The first that fits; of PyAV's own classes each is one of Python's too.
_ERRORS: tuple[tuple[type[BaseException], CameraCode], ...] = (
    (av.error.DecoderNotFoundError, CameraCode.CODEC_UNSUPPORTED),
    (av.error.DemuxerNotFoundError, CameraCode.CODEC_UNSUPPORTED),
    (av.error.PatchWelcomeError, CameraCode.CODEC_UNSUPPORTED),
    (EOFError, CameraCode.ENDED),
    (ssl.SSLEOFError, CameraCode.ENDED),
    (ssl.SSLZeroReturnError, CameraCode.ENDED),
    (ssl.SSLError, CameraCode.TLS_FAILED),
    (TimeoutError, CameraCode.TIMEOUT),
    (ConnectionRefusedError, CameraCode.REFUSED),
    (ConnectionResetError, CameraCode.ENDED),
    (BrokenPipeError, CameraCode.ENDED),
    (FileNotFoundError, CameraCode.NOT_FOUND),
    (PermissionError, CameraCode.NOT_FOUND),
    (socket.gaierror, CameraCode.UNREACHABLE),
)
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN}


class SourceFailed(Exception):
    """A source gives no more frames; the code says why."""

    def __init__(self, code: CameraCode) -> None:
        super().__init__(code.value)
        self.code = code


def code_of_status(status: int) -> CameraCode:
    """Of an answer to RTSP or HTTP; ``NONE`` where it is not a refusal."""
    if 300 <= status < 400:
        return CameraCode.REDIRECT_REFUSED
    return _STATUS.get(status, CameraCode.FAILED if status >= 400 else CameraCode.NONE)


def code_of_error(error: BaseException) -> CameraCode:
    """Of an error of the network, of TLS or of libav."""
    if isinstance(error, SourceFailed):
        return error.code
    for kind, code in _ERRORS:
        if isinstance(error, kind):
            return code
    is_unreachable = isinstance(error, OSError) and error.errno in _UNREACHABLE
    return CameraCode.UNREACHABLE if is_unreachable else CameraCode.FAILED
