from __future__ import annotations

import errno
import socket
import ssl

import av.error
import pytest

from fedfleet_inference_api.cameras.decoding import fitted
from fedfleet_inference_api.cameras.faults import SourceFailed, code_of_error, code_of_status
from fedfleet_inference_api.cameras.seen import CameraCode


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(), CameraCode.TIMEOUT),
        (ConnectionRefusedError(), CameraCode.REFUSED),
        (ConnectionResetError(), CameraCode.ENDED),
        (OSError(errno.EHOSTUNREACH, ""), CameraCode.UNREACHABLE),
        (OSError(errno.ENETUNREACH, ""), CameraCode.UNREACHABLE),
        (OSError(errno.EIO, ""), CameraCode.FAILED),
        (socket.gaierror(), CameraCode.UNREACHABLE),
        (ssl.SSLCertVerificationError(), CameraCode.TLS_FAILED),
        (ssl.SSLEOFError(), CameraCode.ENDED),
        (SourceFailed(CameraCode.NO_VIDEO), CameraCode.NO_VIDEO),
        (MemoryError(), CameraCode.FAILED),
        (av.error.EOFError(0, "x"), CameraCode.ENDED),
        (av.error.TimeoutError(errno.ETIMEDOUT, "x"), CameraCode.TIMEOUT),
        (av.error.FileNotFoundError(errno.ENOENT, "x"), CameraCode.NOT_FOUND),
        (av.error.DecoderNotFoundError(1, "x"), CameraCode.CODEC_UNSUPPORTED),
        (av.error.InvalidDataError(1, "x"), CameraCode.FAILED),
    ],
)
def test_every_error_has_its_code(error, code):
    assert code_of_error(error) is code


def test_every_status_has_its_code():
    codes = {status: code_of_status(status) for status in range(100, 600)}

    assert {codes[status] for status in range(100, 300)} == {CameraCode.NONE}
    assert {codes[status] for status in range(300, 400)} == {CameraCode.REDIRECT_REFUSED}
    assert CameraCode.NONE not in {codes[status] for status in range(400, 600)}
    assert (codes[401], codes[404]) == (CameraCode.AUTH_FAILED, CameraCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("size", "most", "fits"),
    [
        ((1920, 1080), 1280, (1280, 720)),
        ((1080, 1920), 1280, (720, 1280)),
        ((320, 240), 1280, (320, 240)),
        ((4000, 2), 100, (100, 1)),
    ],
)
def test_frame_is_scaled_down_and_keeps_its_shape(size, most, fits):
    assert fitted(*size, most) == fits


def test_frame_without_a_size_is_refused():
    with pytest.raises(SourceFailed):
        fitted(0, 5, 100)
