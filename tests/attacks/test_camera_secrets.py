"""What a camera is reached with shows up nowhere: logs, answers, arguments, environments."""

from __future__ import annotations

import base64
import json
import logging
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from filming import camera, filming
from mjpeg_server import MjpegServer
from scripted_camera import ScriptedCamera, answer

from fedfleet.errors import CameraInvalid, FedFleetError
from fedfleet.obs.logs import JsonFormatter
from fedfleet_inference_api.cameras.config import camera_from_json, read_cameras
from fedfleet_inference_api.cameras.networks import parse_camera_networks
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState

USER, PASSWORD = "watchman", 'S3cr@t:pa/ss%41"wörd'
FORMS = (
    PASSWORD,
    quote(PASSWORD, safe=""),
    quote(PASSWORD),
    json.dumps(PASSWORD)[1:-1],
    base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
    "S3cr",
    "tok3n",
)


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonFormatter("inference-api"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def log() -> Iterator[Lines]:
    handler, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


def found_in(text: str) -> list[str]:
    return [form for form in FORMS if form in text]


def test_nothing_that_can_be_read_of_a_running_camera_holds_its_secrets(log, monkeypatch):
    monkeypatch.setenv("FEDFLEET_OTHER", "of the service's own")
    refusing = ScriptedCamera({"DESCRIBE": answer("401 No", 'WWW-Authenticate: Basic realm="x"')})
    streaming = MjpegServer(USER, PASSWORD)
    login = f"{USER}:{quote(PASSWORD, safe='')}@"
    cameras = [
        camera("refused", f"rtsp://{login}127.0.0.1:{refusing.port}/live?token=tok3n"),
        camera("streams", f"http://{login}127.0.0.1:{streaming.port}/digest"),
        camera("absent", f"rtsp://{login}127.0.0.1:1/live?token=tok3n"),
    ]
    read: dict[str, str] = {}

    try:
        with filming(*cameras) as film:
            film.until("streams", CameraState.STREAMING, CameraCode.NONE)
            film.until("refused", CameraState.BACKOFF, CameraCode.AUTH_FAILED)
            film.until("absent", CameraState.BACKOFF, CameraCode.REFUSED)
            for one in cameras:
                name = one.name
                shown = film.cameras.camera(name)
                read[f"{name} as JSON"] = json.dumps(
                    [shown.to_json(), film.cameras.status(name).to_json()]
                )
                read[f"{name} as text"] = f"{shown} {shown!r} {shown.place!r} {shown.url}"
            read |= dict(of_process(film.cameras.pid("streams"), "the camera's process"))
            read |= dict(of_process(os.getpid(), "the service"))
            logging.getLogger("any").error(
                "careless %s", cameras[0].url.reveal(), extra={"deep": [{"x": PASSWORD}]}
            )
            try:
                raise OSError(f"cannot open {cameras[0].url.reveal()}")
            except OSError:
                logging.getLogger("any").exception("open_failed")
    finally:
        refusing.close()
        streaming.close()

    environment = read["environ of the camera's process"]
    names = {entry.partition("=")[0] for entry in environment.strip("\0").split("\0")}
    assert names <= {"PYTHONPATH", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}, "nothing of the service's"
    read["the log"] = "\n".join(log.lines)
    assert "camera_state" in read["the log"]
    assert "careless" in read["the log"]
    assert "open_failed" in read["the log"]
    assert {what: forms for what, text in read.items() if (forms := found_in(text))} == {}
    assert b"Authorization: Basic" in refusing.asked, "the camera itself was told, as it asked"


def of_process(pid: int, what: str) -> Iterator[tuple[str, str]]:
    """All that other processes can read of one."""
    for name in ("cmdline", "environ", "comm", "status", "maps", "mountinfo"):
        try:
            content = Path(f"/proc/{pid}/{name}").read_bytes()
        except PermissionError:
            continue
        yield f"{name} of {what}", content.decode(errors="replace")
    for thread in psutil.Process(pid).threads():
        yield (
            f"a thread of {what}",
            Path(f"/proc/{pid}/task/{thread.id}/comm").read_text(encoding="utf-8"),
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"url": f"rtsp://{USER}:{PASSWORD}@10.0.0.5/live"},
        {"url": f"gopher://{USER}:S3cr@10.0.0.5/"},
        {"url": f"rtsp://{USER}:S3cr@10.0.0.5:99999/"},
        {"url": f"rtsp://{USER}:S3cr@[10.0.0.5/"},
        {"url": f"rtsp://{USER}:S3cr@10.0.0.5/ü\n"},
        {"url": [f"rtsp://{USER}:S3cr@10.0.0.5/"]},
        {"url": "rtsp://10.0.0.5/", "user": USER, "password": ["S3cr"]},
        {"url": f"rtsp://{USER}:S3cr@10.0.0.5/", "user": USER, "password": "S3cr"},
        {"url": "rtsp://10.0.0.5/", "user": USER, "password": "S3cr" * 100},
        {"url": f"rtsp://{USER}:S3cr@10.0.0.5/", "fps": 0},
        {"url": f"rtsp://{USER}:S3cr@10.0.0.5/", "zones": [{"name": "a", "points": [[2, 2]]}]},
    ],
)
def test_error_of_a_camera_that_cannot_be_used_does_not_repeat_its_secrets(fields):
    with pytest.raises(CameraInvalid) as caught:
        camera_from_json({"name": "door", **fields})

    assert found_in("".join(traceback.format_exception(caught.value))) == []


def test_error_of_a_file_that_cannot_be_read_does_not_repeat_its_secrets(tmp_path):
    path = tmp_path / "cameras.toml"
    path.write_text(
        f'[[camera]]\nname = "door"\nurl = "rtsp://{USER}:S3cr@10.0.0.5/"\npassword = S3cr\n',
        encoding="utf-8",
    )

    with pytest.raises(CameraInvalid, match=r"must be TOML \(line 4") as caught:
        read_cameras(path)

    assert found_in("".join(traceback.format_exception(caught.value))) == []


def test_refusal_of_an_address_says_the_same_whatever_is_there():
    networks = parse_camera_networks("10.0.0.0/8")
    urls = [
        "rtsp://127.0.0.1/",
        "rtsp://169.254.169.254/",
        "rtsp://localhost/",
        "rtsp://no-such-name.invalid/",
        "rtsp://10.0.0.5:22/",
        "rtsp://192.168.0.5/",
    ]
    with filming(networks=networks) as film:
        refusals = set()
        for url in urls:
            with pytest.raises(FedFleetError) as caught:
                film.cameras.add(camera("new", url))
            refusals.add((caught.value.code, caught.value.message))

    assert len(refusals) == 1
