from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedfleet.errors import CameraInvalid
from fedfleet_inference_api.cameras.config import (
    Camera,
    Zone,
    camera_from_json,
    check_together,
    read_cameras,
)
from fedfleet_inference_api.cameras.secrets import Secret

FILE = """
[[camera]]
name = "door"
url = "rtsp://10.0.0.5:8554/live?channel=1"
user = "operator"
password = "p@ss/w:rd%"
fps = 2
classes = ["person"]
zones = [{name = "step", points = [[0, 0], [1, 0], [0.5, 1.0]], classes = ["person"]}]

[[camera]]
name = "yard"
url = "https://yard.lan/mjpg"
ca_file = "yard.pem"
motion = false

[[camera]]
name = "old"
url = "file:videos/walk.mp4"
loop = false
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cameras.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_has_a_table_for_each_camera(tmp_path):
    door, yard, old = read_cameras(written(tmp_path, FILE))

    assert (door.name, door.fps, door.classes, door.motion) == ("door", 2.0, ("person",), True)
    assert (door.place.user, door.place.password.reveal()) == ("operator", "p@ss/w:rd%")
    assert door.zones[0] == Zone(
        name="step", points=((0, 0), (1, 0), (0.5, 1.0)), classes=("person",)
    )
    assert yard.ca_file == tmp_path / "yard.pem"
    assert not yard.motion
    assert old.place.path.reveal() == str(tmp_path / "videos" / "walk.mp4")
    assert not old.loop


def test_camera_as_json_has_all_but_what_is_secret(tmp_path):
    for camera in read_cameras(written(tmp_path, FILE)):
        shown = json.dumps(camera.to_json())
        for secret in ("operator", "p@ss", "live", "channel", "mjpg", "yard.pem", "walk", "/"):
            assert secret not in shown.replace("rtsp://", "").replace("https://", "")
    assert json.loads(shown)["address"] == "file"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("camera = 3", r"must hold \[\[camera\]\] tables"),
        ("[[cameras]]\nname = 'a'", r"must hold \[\[camera\]\] tables"),
        ("[[camera]]\nname = 'a'", r"camera\[0\].url: missing"),
        ("[[camera]]\nurl = 'rtsp://a/'", r"camera\[0\].name: missing"),
        ("[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\nfbs = 3", "did you mean 'fps'"),
        (
            "[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\nfps = 'many'",
            'fps = "many": must be a number',
        ),
        (
            "[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\nfps = 0",
            r"camera\[0\].fps = 0: must be from",
        ),
        ("[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\nscore = 1.5", "score = 1.5"),
        ("[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\nmax_side = 9999", "max_side = 9999"),
        ("[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\ntransport = 'udp'", 'one of "tcp"'),
        ("[[camera]]\nname = 'a b'\nurl = 'rtsp://a/'", "name: must be 1 to 64 of"),
        ("[[camera]]\nname = '../a'\nurl = 'rtsp://a/'", "name: must be 1 to 64 of"),
        ("[[camera]]\nname = 'a'\nurl = 'gopher://a/'", "url: must begin with one of"),
        ("[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\nloop = false", "loop: only a file"),
        ("[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\nca_file = 'x'", "ca_file: only rtsps"),
        ("[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\nclasses = ['']", "classes: must be at most"),
        (
            "[[camera]]\nname = 'a'\nurl = 'rtsp://a/'\nzones = [{name = 'z', points = [[0, 0]]}]",
            r"camera\[0\].zones\[0\].points: must be 3 to 64",
        ),
        (
            "[[camera]]\nname='a'\nurl='rtsp://a/'\nzones=[{name='z', points=[[0,0],[1,0],[2,1]]}]",
            r"zones\[0\].points: must be shares",
        ),
        (
            "[[camera]]\nname='a'\nurl='rtsp://a/'\nzones=[{name='z', points=[[0],[1,0],[1,1]]}]",
            r"zones\[0\].points: each must be \[x, y\]",
        ),
        ("[[camera]]\nname='a'\nurl='rtsp://a/'\n" * 2, 'name = "a": two cameras'),
        ("[[camera]\n", r"must be TOML \(line 1"),
    ],
)
def test_file_that_cannot_be_used_names_what_is_wrong(tmp_path, text, error):
    with pytest.raises(CameraInvalid, match=error):
        read_cameras(written(tmp_path, text))


def test_file_that_is_not_there_or_no_text_says_so(tmp_path):
    with pytest.raises(CameraInvalid, match=r"FEDFLEET_CAMERAS=.*No such file"):
        read_cameras(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CameraInvalid, match="must be UTF-8"):
        read_cameras(tmp_path / "bytes.toml")


def test_caller_describes_a_camera_as_the_file_does():
    camera = camera_from_json({"name": "gate", "url": "rtsp://u:p@10.0.0.5/x", "fps": 1})

    assert camera == Camera(name="gate", url=Secret("rtsp://u:p@10.0.0.5/x"), fps=1.0)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "camera: must be a table"),
        ([], "camera: must be a table"),
        ({"name": "a", "url": "file:/etc/passwd"}, "only for the service's own file"),
        ({"name": "a", "url": "rtsps://a/", "ca_file": "/etc/passwd"}, "camera.ca_file"),
        ({"name": "a", "url": "rtsp://a/", "loop": True}, "camera.loop"),
        ({"name": "a", "url": 5}, "camera.url: must be a text"),
        ({"name": "a", "url": "rtsp://a/", "zones": ["z"]}, "zones"),
        ({"name": "a", "url": "rtsp://a/", "": 6}, "unknown field"),
    ],
)
def test_caller_is_refused_files_and_what_is_no_camera(value, error):
    with pytest.raises(CameraInvalid, match=error):
        camera_from_json(value)


def test_cameras_are_not_too_many():
    cameras = [Camera(name=f"c{i}", url=Secret("rtsp://a/")) for i in range(257)]

    check_together(cameras[:256])
    with pytest.raises(CameraInvalid, match="at most 256"):
        check_together(cameras)


def test_secret_shows_itself_only_when_asked():
    secret = Secret("hush")

    assert f"{secret} {secret!r} {[secret]}" == "*** Secret(***) [Secret(***)]"
    assert secret.reveal() == "hush"
    assert secret == Secret("hush")
    assert not Secret("")


@pytest.mark.parametrize(("fps", "silence_s"), [(30, 5), (4, 5), (1, 20), (0.1, 200)])
def test_camera_may_be_silent_for_as_long_as_twenty_frames_take(fps, silence_s):
    assert Camera(name="a", url=Secret("rtsp://a/"), fps=fps).silence_s == silence_s
