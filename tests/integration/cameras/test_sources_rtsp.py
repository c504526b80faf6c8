from __future__ import annotations

import os
import signal
import time
from urllib.parse import quote

from filming import PASSWORD, USER, RtspServer, camera, eventually, filming

from fedfleet_inference_api.cameras.seen import CameraCode, CameraState

STREAMING, BACKOFF = CameraState.STREAMING, CameraState.BACKOFF
LIVE = {"fps": 50.0, "stall_s": 1.0}


def test_every_way_of_an_rtsp_camera_to_stream_or_to_refuse(rtsp):
    here, guarded = f"rtsp://127.0.0.1:{rtsp.port}", f"127.0.0.1:{rtsp.guarded_port}"
    secret = quote(PASSWORD, safe="")
    refusals = {
        "no-password": (f"rtsp://{guarded}/live", CameraCode.AUTH_FAILED),
        "wrong-password": (f"rtsp://{USER}:guessed@{guarded}/live", CameraCode.AUTH_FAILED),
        "no-path": (f"{here}/nowhere", CameraCode.NOT_FOUND),
        "no-picture": (f"{here}/sound", CameraCode.NO_VIDEO),
        "no-decoder": (f"{here}/theora", CameraCode.CODEC_UNSUPPORTED),
        "no-server": ("rtsp://127.0.0.1:1/live", CameraCode.REFUSED),
    }
    streams = {
        "h264": (f"{here}/live", "h264"),
        "h265": (f"{here}/h265", "hevc"),
        "jpeg": (f"{here}/jpeg", "mjpeg"),
        "guarded": (f"rtsp://{USER}:{secret}@{guarded}/live", "h264"),
    }
    cameras = [camera(name, url) for name, (url, _) in (refusals | streams).items()]

    with filming(*cameras) as film:
        for name, (_, code) in refusals.items():
            film.until(name, BACKOFF, code)
        for name, (_, codec) in streams.items():
            film.until(name, STREAMING, CameraCode.NONE)
            frame = film.cameras.wait(name, 0, 10.0)
            status = film.cameras.status(name)
            assert frame is not None
            assert frame.pixels.shape == (240, 320, 3)
            assert frame.pixels.max() > 200, "the ball is white"
            assert (status.codec, status.width, status.height) == (codec, 320, 240)
            assert film.of(name)[0] == (CameraState.CONNECTING, CameraCode.NONE)


def test_newest_frame_is_of_now_and_as_many_as_are_wanted(rtsp):
    url = f"rtsp://127.0.0.1:{rtsp.port}/live"

    with filming(camera("door", url, fps=5.0, max_side=160)) as film:
        frame = film.cameras.wait("door", 0, 20.0)
        assert frame is not None
        begun_s, first = time.monotonic(), frame.sequence
        ages_s = []
        for _ in range(8):
            frame = film.cameras.wait("door", frame.sequence, 5.0)
            assert frame is not None
            ages_s.append(time.time() - frame.at_s)
        per_s = (frame.sequence - first) / (time.monotonic() - begun_s)
        status = film.cameras.status("door")

    assert frame.pixels.shape == (120, 160, 3)
    assert sorted(ages_s)[4] < 0.2
    assert 3.5 < per_s < 6.5, "five of its twenty-five"
    assert status.fps > 15, "of the stream, not of what is handed on"


def test_camera_whose_pictures_change_their_size_streams_on(own_rtsp):
    url = f"rtsp://127.0.0.1:{own_rtsp.port}/live"

    with filming(camera("door", url, **LIVE)) as film:
        before = film.cameras.wait("door", 0, 20.0)
        own_rtsp.order("size 640 360")
        eventually(lambda: film.cameras.status("door").width == 640, "no larger picture")
        after = film.cameras.newest("door")
        restarts = film.cameras.status("door").restarts

    assert before is not None
    assert after is not None
    assert (before.pixels.shape, after.pixels.shape) == ((240, 320, 3), (360, 640, 3))
    assert restarts == 0, "it was not connected again for that"


def test_process_that_could_not_keep_up_is_soon_at_the_newest_frame_again(rtsp):
    url = f"rtsp://127.0.0.1:{rtsp.port}/live"

    with filming(camera("door", url, fps=50.0, stall_s=10.0)) as film:
        frame = film.cameras.wait("door", 20, 20.0)
        usual_s = behind_s(frame)
        os.kill(film.cameras.pid("door"), signal.SIGSTOP)
        # Nothing to wait for: it is the camera that goes on.
        time.sleep(2.5)
        os.kill(film.cameras.pid("door"), signal.SIGCONT)
        until_s = time.monotonic() + 10.0
        while behind_s(frame) - usual_s > 0.3 or film.cameras.status("door").dropped == 0:
            assert time.monotonic() < until_s, "what waited is still being watched"
            frame = film.cameras.wait("door", frame.sequence, 5.0)
            assert frame is not None
        status = film.cameras.status("door")

        os.kill(film.cameras.pid("door"), signal.SIGKILL)
        film.until("door", BACKOFF, CameraCode.DIED)
        later = film.cameras.status("door")

    assert status.restarts == 0
    assert status.dropped > 10, "what had waited was not decoded first"
    assert later.dropped < 2 * status.dropped, "of all its processes, each once"


def behind_s(frame):
    """How far a frame is behind the stream's own clock, but for a constant."""
    return frame.at_s - frame.media_s


def test_silent_camera_is_connected_again_and_streams_when_it_can(own_rtsp):
    url = f"rtsp://127.0.0.1:{own_rtsp.port}/live"

    with filming(camera("door", url, **LIVE)) as film:
        film.until("door", STREAMING, CameraCode.NONE)
        own_rtsp.order("stall")
        film.until("door", CameraState.STALLED, CameraCode.STALLED)
        film.until("door", BACKOFF, CameraCode.STALLED)
        last = film.cameras.status("door").frames
        seen = len(film.of("door"))
        own_rtsp.order("flow")
        film.until("door", STREAMING, CameraCode.NONE, after=seen)
        frame = film.cameras.wait("door", last, 10.0)

    assert frame is not None
    assert frame.sequence > last, "the count goes on"


def test_server_that_goes_and_comes_is_found_again(own_rtsp):
    url = f"rtsp://127.0.0.1:{own_rtsp.port}/live"

    with filming(camera("door", url, **LIVE)) as film:
        film.until("door", STREAMING, CameraCode.NONE)
        own_rtsp.close()
        film.until("door", BACKOFF, CameraCode.REFUSED)
        seen = len(film.of("door"))
        second = RtspServer(own_rtsp.port)
        try:
            film.until("door", STREAMING, CameraCode.NONE, after=seen)
        finally:
            second.close()

    assert film.cameras.status("door").restarts >= 1
