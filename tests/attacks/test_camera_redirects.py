"""A camera that leads whoever watches it to another address: no connection ever goes there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import av
import pytest
from filming import camera, filming
from mjpeg_server import MjpegServer
from scripted_camera import GOOD, SDP, ScriptedCamera, Trap, answer

from fedfleet_inference_api.cameras.faults import SourceFailed
from fedfleet_inference_api.cameras.networks import CameraNetworks, parse_camera_networks
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState
from fedfleet_inference_api.cameras.source import open_source
from fedfleet_inference_api.cameras.spec import Spec
from fedfleet_inference_api.cameras.urls import parse_place

REDIRECT = CameraCode.REDIRECT_REFUSED
ANYWHERE = CameraNetworks()
SMUGGLED = "RTSP/1.0 302 Moved\r\nCSeq: CSEQ\r\nLocation: TRAP\r\n\r\n"


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


def spec(url: str, networks: CameraNetworks = ANYWHERE) -> Spec:
    return Spec(
        url=url,
        fps=5.0,
        stall_s=2.0,
        max_side=640,
        memory_mb=1024,
        sequence=0,
        ring_fd=-1,
        parent=os.getpid(),
        networks=networks,
        ca_file=None,
        loop=True,
    )


def failure(url: str, networks: CameraNetworks = ANYWHERE) -> CameraCode:
    with pytest.raises(SourceFailed) as caught:
        source = open_source(spec(url, networks), parse_place(url))
        try:
            for packet in source.container.demux(source.video):
                packet.decode()
        except (av.error.FFmpegError, OSError) as error:
            raise SourceFailed(source.code_of(error)) from error
        finally:
            source.close()
        raise SourceFailed(CameraCode.ENDED)
    return caught.value.code


def moved(
    method: str, status: str = "302 Moved", location: str = "Location: TRAP"
) -> dict[str, str]:
    return {method: answer(status, location)}


ATTACKS = {
    "options": (moved("OPTIONS"), REDIRECT),
    "describe": (moved("DESCRIBE"), REDIRECT),
    "setup": (moved("SETUP"), REDIRECT),
    "play": (moved("PLAY"), REDIRECT),
    "301": (moved("DESCRIBE", "301 Moved"), REDIRECT),
    "305": (moved("DESCRIBE", "305 Use Proxy"), REDIRECT),
    "399": (moved("DESCRIBE", "399 Odd"), REDIRECT),
    "small letters": (moved("DESCRIBE", location="location:TRAP"), REDIRECT),
    "bare line feeds": ({"DESCRIBE": SMUGGLED.replace("\r\n", "\n")}, REDIRECT),
    "behind an answer": ({"OPTIONS": GOOD["OPTIONS"] + SMUGGLED}, REDIRECT),
    "behind a frame": ({"OPTIONS": "$\x00\x00\x04abcd" + SMUGGLED}, REDIRECT),
    "in a body that is said to be shorter": (
        {"DESCRIBE": GOOD["DESCRIBE"].replace(f": {len(SDP)}", ": 0").replace(SDP, SMUGGLED)},
        CameraCode.NO_VIDEO,
    ),
    "in a body that is said twice to be": (
        {"DESCRIBE": GOOD["DESCRIBE"].replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\n", 1)},
        CameraCode.FAILED,
    ),
    "in another protocol": (
        {"DESCRIBE": "HTTP/1.1 302 Moved\r\nLocation: TRAP\r\n\r\n"},
        CameraCode.FAILED,
    ),
    "with a good answer's Location": (
        {
            "DESCRIBE": GOOD["DESCRIBE"].replace("CSeq", "Location: TRAP\r\nCSeq"),
            "SETUP": answer("454 Session Not Found", "Location: TRAP"),
        },
        CameraCode.FAILED,
    ),
    "as a request of its own": (
        {"OPTIONS": "REDIRECT * RTSP/1.0\r\nLocation: TRAP\r\n\r\n" + GOOD["OPTIONS"]},
        CameraCode.ENDED,
    ),
    "as the base of what is asked": (
        {"DESCRIBE": GOOD["DESCRIBE"].replace("CSeq", "Content-Base: TRAP\r\nCSeq")},
        CameraCode.ENDED,
    ),
    "as the track's address": (
        {"DESCRIBE": answer("200 OK", "Content-Type: application/sdp", body=SDP[:-7] + "TRAP\r\n")},
        None,
    ),
    "as a transport of packets": (
        {
            "SETUP": answer(
                "200 OK",
                "Session: 1",
                "Transport: RTP/AVP;unicast;destination=127.0.0.1;source=127.0.0.1;"
                "client_port=20000-20001;server_port=PORT-PORT",
            )
        },
        None,
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_rtsp_camera_leads_nobody_elsewhere(trap, attack):
    answers, code = ATTACKS[attack]
    place = f"rtsp://127.0.0.1:{trap.port}/elsewhere"
    told = {
        method: text.replace("TRAP", place).replace("PORT", str(trap.port))
        for method, text in answers.items()
    }
    scripted = ScriptedCamera(told)

    try:
        found = failure(f"rtsp://user:hidden@127.0.0.1:{scripted.port}/live")
    finally:
        scripted.close()

    assert not trap.was_reached
    assert scripted.asked.startswith(b"OPTIONS "), "it was asked at all"
    assert code is None or found is code
    assert b"hidden" not in scripted.asked, "a password for nobody who does not ask for it"


def test_trap_would_be_reached_by_ffmpeg_alone(trap):
    scripted = ScriptedCamera(
        moved("DESCRIBE", location=f"Location: rtsp://127.0.0.1:{trap.port}/")
    )
    url = f"rtsp://127.0.0.1:{scripted.port}/live"

    with pytest.raises(av.error.FFmpegError):
        av.open(url, options={"rtsp_transport": "tcp", "timeout": "300000"})
    scripted.close()

    assert trap.was_reached


def test_http_camera_leads_nobody_elsewhere(trap):
    server = MjpegServer("user", "hidden", elsewhere=f"http://127.0.0.1:{trap.port}/")

    try:
        code = failure(f"http://user:hidden@127.0.0.1:{server.port}/elsewhere")
    finally:
        server.close()

    assert code is REDIRECT
    assert not trap.was_reached


def test_address_that_is_not_allowed_is_never_connected_to(trap):
    url = f"rtsp://localhost:{trap.port}/live"
    for text in ("192.168.0.0/16", "0.0.0.0/0, ::/0", "localhost"):
        networks = replace(parse_camera_networks(text), ports=frozenset({trap.port}))
        assert failure(url, networks) is CameraCode.NOT_ALLOWED
    assert failure(url, parse_camera_networks("127.0.0.0/8")) is CameraCode.NOT_ALLOWED, "the port"
    assert not trap.was_reached


def test_running_camera_that_begins_to_lead_elsewhere_is_given_up(trap):
    scripted = ScriptedCamera(
        moved("DESCRIBE", location=f"Location: rtsp://127.0.0.1:{trap.port}/")
    )

    with filming(camera("door", f"rtsp://127.0.0.1:{scripted.port}/live")) as film:
        film.until("door", CameraState.BACKOFF, REDIRECT)
    scripted.close()

    assert not trap.was_reached
