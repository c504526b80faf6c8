from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import CameraInvalid, Unavailable
from fedfleet_inference_api.cameras.config import Camera, Zone, camera_from_json
from fedfleet_inference_api.cameras.kept import KeptCameras
from fedfleet_inference_api.cameras.secrets import Secret

SECRET = "hush-hush"
URL = f"rtsp://viewer:{SECRET}@10.0.0.5/live"


def camera(name: str = "door", url: str = URL) -> Camera:
    return Camera(name=name, url=Secret(url))


def names(kept: KeptCameras) -> list[str]:
    return [one.name for one in kept.cameras]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cameras.json"


def test_cameras_are_kept_in_their_order_for_their_owner_alone(path):
    kept = KeptCameras(path)
    assert (kept.cameras, kept.fault, path.exists()) == ((), "", False)

    for name in ("door", "gate", "yard"):
        kept.put(camera(name))
    kept.drop("gate")
    kept.drop("nowhere")
    kept.put(camera("door", "rtsp://10.0.0.6/"))

    assert KeptCameras(path).cameras == (camera("door", "rtsp://10.0.0.6/"), camera("yard"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_last_camera_that_is_dropped_leaves_a_file_without_any(path):
    kept = KeptCameras(path)
    kept.put(camera())
    kept.drop("door")

    again = KeptCameras(path)
    assert (again.cameras, again.fault) == ((), "")
    assert SECRET not in path.read_text()


points = st.tuples(st.floats(0, 1), st.floats(0, 1))
labels = st.lists(st.text(st.characters(categories=["L", "N", "S"]), min_size=1), max_size=3)
zones = st.builds(
    Zone,
    name=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    points=st.lists(points, min_size=3, max_size=5).map(tuple),
    classes=labels.map(tuple),
)
cameras = st.builds(
    Camera,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    url=st.sampled_from(
        [URL, "rtsps://b\u00e4r:s%40%2F@[fd00::7]:8554/x?a=\u00e9", "https://yard.lan/mjpeg?key=1"]
    ).map(Secret),
    fps=st.floats(0.01, 120),
    score=st.floats(0, 1),
    classes=labels.map(tuple),
    zones=st.lists(zones, max_size=2, unique_by=lambda zone: zone.name).map(tuple),
    motion=st.booleans(),
    look_every_s=st.floats(0.1, 86400),
    stall_s=st.floats(0.5, 3600),
    max_side=st.integers(32, 4096),
)


@given(st.lists(cameras, max_size=3, unique_by=lambda one: one.name))
def test_every_camera_comes_back_as_it_was(tmp_path_factory, added):
    path = tmp_path_factory.mktemp("kept") / "cameras.json"
    kept = KeptCameras(path)
    for one in added:
        kept.put(one)

    assert KeptCameras(path).cameras == kept.cameras == tuple(added)


def test_camera_with_credentials_of_their_own_comes_back_with_them(path):
    added = camera_from_json(
        {"name": "door", "url": "rtsp://10.0.0.5/", "user": "me", "password": "p@ss/w:rd%"}
    )
    KeptCameras(path).put(added)

    (found,) = KeptCameras(path).cameras
    assert found == added
    assert found.place.password.reveal() == "p@ss/w:rd%"


DAMAGED = {
    b'{"cameras": [\n{"name": "door", "url": "rtsp://me:hush-hush@': "must be JSON (line 2)",
    b"": "is empty",
    b"\xff\xfehush-hush": "must be JSON",
    b"[" * 100_000: "must be JSON",
    b"[]": 'must be {"cameras": [...]}',
    b'{"cameras": {}}': 'must be {"cameras": [...]}',
    b'{"cameras": [], "more": 1}': 'must be {"cameras": [...]}',
    b'{"cameras": ["hush-hush"]}': "cameras[0]: must be a table",
    b'{"cameras": [{"name": "door", "url": {"a": "hush-hush"}}]}': "cameras[0].url: must be a text",
    b'{"cameras": [{"name": "door", "url": "rtsp://a/hush-hush@b"}]}': "cameras[0].url: it is not",
    b'{"cameras": [{"name": "door", "url": "file:/etc/hush-hush"}]}': "cameras[0].url: file:",
    b'{"cameras": [{"name": "door", "url": "rtsp://a", "ca_file": "x"}]}': "cameras[0].ca_file",
    b'{"cameras": [{"name": "door", "url": "rtsp://a", "fps": NaN}]}': "cameras[0].fps",
    b'{"cameras": [{"name": "door", "url": "rtsp://a", "fps": 1e999}]}': "cameras[0].fps",
    b'{"cameras": [{"name": "door", "url": "rtsp://a", "sound": 1}]}': "cameras[0]",
    b'{"cameras": [{"name": "a", "url": "rtsp://a"}, {"name": "a", "url": "rtsp://a"}]}': "two",
}


@pytest.mark.parametrize("damage", DAMAGED, ids=DAMAGED.values())
def test_damaged_file_is_told_of_without_its_secrets_and_left_as_it_is(path, damage, caplog):
    path.write_bytes(damage)
    path.chmod(0o600)

    kept = KeptCameras(path)
    with pytest.raises(Unavailable, match="FEDFLEET_CAMERAS_KEPT: "):
        kept.put(camera())
    kept.drop("door")

    assert kept.cameras == ()
    *details, record = caplog.records
    assert record.message == "kept_cameras_unusable"
    assert all(detail.message == "kept_camera_invalid" for detail in details)
    reasons = [vars(detail)["reason"] for detail in details] or [kept.fault]
    assert DAMAGED[damage] in reasons[0]
    assert not details or kept.fault.endswith(
        "a camera in it cannot be used: the service's log says why"
    )
    assert str(path.parent) not in kept.fault
    assert len(kept.fault) < 200
    assert SECRET not in kept.fault + str([vars(record) for record in caplog.records])
    assert path.read_bytes() == damage


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_file_that_others_may_read_or_change_is_refused(path, mode):
    KeptCameras(path).put(camera())
    path.chmod(mode)

    kept = KeptCameras(path)

    assert kept.cameras == ()
    assert f"others may read or change it (mode {mode:o})" in kept.fault
    assert "chmod it to 600" in kept.fault


def test_what_is_no_file_or_has_no_folder_is_refused(path):
    os.mkfifo(path)

    assert KeptCameras(path).fault == "FEDFLEET_CAMERAS_KEPT: is not a file"
    nowhere = KeptCameras(path.parent / "no" / "cameras.json")
    assert nowhere.fault == "FEDFLEET_CAMERAS_KEPT: its folder is not there"
    assert KeptCameras(path.parent).fault == "FEDFLEET_CAMERAS_KEPT: is not a file"


def test_file_that_somebody_else_has_written_is_not_overwritten(path, caplog):
    kept = KeptCameras(path)
    kept.put(camera("door"))
    other = KeptCameras(path)
    other.put(camera("gate"))
    before = path.read_bytes()

    with pytest.raises(Unavailable, match="the service's log says why"):
        kept.put(camera("yard"))
    with pytest.raises(Unavailable):
        kept.drop("door")

    assert path.read_bytes() == before
    assert names(kept) == ["door"]
    assert "restart the service" in vars(caplog.records[-1])["reason"]


def test_camera_that_cannot_be_written_is_not_kept_until_it_can(path, tmp_path_factory, caplog):
    kept = KeptCameras(path)
    kept.put(camera("door"))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "away"
    path.parent.rename(elsewhere)

    for change in (lambda: kept.put(camera("gate")), lambda: kept.drop("door")):
        with pytest.raises(Unavailable) as failed:
            change()
        assert str(path) not in failed.value.message
    assert names(kept) == ["door"]

    elsewhere.rename(path.parent)
    kept.put(camera("gate"))
    assert names(KeptCameras(path)) == ["door", "gate"]


def test_file_that_was_removed_is_written_anew(path):
    kept = KeptCameras(path)
    kept.put(camera("door"))
    path.unlink()

    kept.put(camera("gate"))

    assert names(KeptCameras(path)) == ["door", "gate"]


def test_number_of_kept_cameras_is_what_can_be_read_again(path):
    fields = [{"name": f"c{i}", "url": "rtsp://10.0.0.5/"} for i in range(256)]
    path.write_text(json.dumps({"cameras": fields}))
    path.chmod(0o600)
    kept = KeptCameras(path)

    with pytest.raises(CameraInvalid, match="256 cameras"):
        kept.put(camera("one-more"))
    kept.put(camera("c0"))

    assert len(KeptCameras(path).cameras) == 256


def test_half_of_a_write_that_was_killed_is_removed(path, caplog):
    caplog.set_level(logging.INFO)
    half = path.with_name(f".{path.name}.0123456789abcdef.partial")
    half.write_text(SECRET)
    others = path.with_name(".other.json.0123456789abcdef.partial")
    others.write_text("")

    assert KeptCameras(path).fault == ""
    assert list(path.parent.iterdir()) == [others]
