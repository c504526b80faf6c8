from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fedfleet.errors import CameraInvalid, NotFound, Unavailable
from fedfleet.obs.redaction import redact
from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.fleet import Cameras
from fedfleet_inference_api.cameras.kept import KeptCameras
from fedfleet_inference_api.cameras.networks import CameraNetworks, parse_camera_networks
from fedfleet_inference_api.cameras.secrets import Secret
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState
from fedfleet_inference_api.cameras.status import Status

NETWORKS = parse_camera_networks("10.0.0.0/8")


def camera(name: str = "door", url: str = "rtsp://u:hush-hush@10.0.0.5/live") -> Camera:
    return Camera(name=name, url=Secret(url))


def ignore(name: str, status: Status) -> None:
    """Told of states that a test does not look at."""


def cameras(*configured: Camera, networks: CameraNetworks = NETWORKS) -> Cameras:
    return Cameras(configured, networks, ignore)


def test_cameras_are_known_by_name_before_they_start():
    fleet = cameras(camera("door"), camera("gate"))

    assert fleet.names() == ["door", "gate"]
    assert fleet.camera("gate") == camera("gate")
    assert fleet.status("door").state is CameraState.STOPPED
    assert fleet.newest("door") is None
    for ask in (fleet.camera, fleet.status, fleet.newest, fleet.remove, fleet.pid):
        with pytest.raises(NotFound, match="'yard'"):
            ask("yard")
    fleet.stop()


@pytest.mark.parametrize(
    "url", ["rtsp://192.168.0.5/", "rtsp://10.0.0.5:22/", "rtsp://127.0.0.1/", "http://any.lan:81/"]
)
def test_configured_camera_is_held_to_the_networks(url):
    with pytest.raises(CameraInvalid, match=r'"door": (rtsp|http)://.* is not among'):
        cameras(camera(url=url))


@pytest.mark.parametrize(
    ("added", "error"),
    [
        (camera("door"), "there is one already"),
        (camera("yard", "rtsp://192.168.0.5/"), "not an address that a camera may have here"),
        (camera("yard", "rtsp://10.0.0.5:22/"), "not an address that a camera may have here"),
        (camera("yard", "file:/etc/passwd"), "not an address that a camera may have here"),
    ],
)
def test_added_camera_is_held_to_the_networks(added, error):
    fleet = cameras(camera("door"))

    with pytest.raises(CameraInvalid, match=error):
        fleet.add(added)
    assert fleet.names() == ["door"]
    fleet.stop()


def test_nobody_adds_a_camera_where_no_network_is_allowed():
    fleet = cameras(networks=replace(CameraNetworks(), ports=frozenset({554})))

    with pytest.raises(CameraInvalid, match="FEDFLEET_CAMERA_NETWORKS"):
        fleet.add(camera())
    fleet.stop()


def test_number_of_cameras_is_bounded():
    fleet = cameras(*(camera(f"c{i}") for i in range(256)))

    with pytest.raises(CameraInvalid, match="256 cameras"):
        fleet.add(camera("one-more"))
    fleet.stop()


def test_secrets_of_cameras_are_hidden_from_the_log_as_long_as_there_are_cameras():
    first, second = cameras(camera()), cameras()
    second.add(camera())
    assert redact("hush-hush") == "***"

    first.stop()
    first.stop()
    assert redact("hush-hush") == "***"

    second.stop()
    assert redact("hush-hush") == "hush-hush"


def test_refused_camera_leaves_no_secret_to_hide():
    fleet = cameras(camera("door"))
    with pytest.raises(CameraInvalid):
        fleet.add(camera("door", "rtsp://u:never-used@10.0.0.5/"))

    assert redact("never-used") == "never-used"
    fleet.stop()


# What is kept.


def kept_of(path: Path, *added: Camera) -> KeptCameras:
    kept = KeptCameras(path)
    for one in added:
        kept.put(one)
    return KeptCameras(path)


def test_added_camera_is_there_in_the_next_fleet_and_a_removed_one_is_not(tmp_path):
    path = tmp_path / "cameras.json"
    first = Cameras([], NETWORKS, ignore, kept=KeptCameras(path))
    first.add(camera("door"))
    first.add(camera("gate"))
    first.remove("door")
    assert (first.is_lasting("gate"), first.is_lasting("door")) == (True, False)
    first.stop()

    second = Cameras([], NETWORKS, ignore, kept=KeptCameras(path))
    assert second.names() == ["gate"]
    assert second.camera("gate") == camera("gate")
    assert second.is_lasting("gate")
    second.stop()


def test_camera_lasts_only_where_something_keeps_it():
    fleet = cameras(camera("door"))
    fleet.add(camera("gate"))

    assert (fleet.is_lasting("door"), fleet.is_lasting("gate")) == (True, False)
    fleet.stop()


def test_camera_of_the_operators_file_counts_before_a_kept_one_of_its_name(tmp_path, caplog):
    path = tmp_path / "cameras.json"
    kept = kept_of(path, camera("door", "rtsp://10.0.0.9/"), camera("gate"))

    fleet = Cameras([camera("door")], NETWORKS, ignore, kept=kept)

    assert fleet.names() == ["door", "gate"]
    assert fleet.camera("door") == camera("door")
    (record,) = caplog.records
    assert (record.message, vars(record)["camera"]) == ("kept_camera_left_out", "door")
    assert [one.name for one in KeptCameras(path).cameras] == ["door", "gate"], "not lost"

    fleet.remove("door")
    assert [one.name for one in KeptCameras(path).cameras] == ["gate"]
    fleet.stop()


@pytest.mark.parametrize(
    ("networks", "url"),
    [
        (NETWORKS, "rtsp://192.168.0.5/"),
        (NETWORKS, "rtsp://10.0.0.5:22/"),
        (NETWORKS, "rtsp://127.0.0.1/"),
        (CameraNetworks(), "rtsp://10.0.0.5/"),
        (CameraNetworks(), "rtsp://door.lan/"),
    ],
)
def test_kept_camera_that_may_not_be_there_any_more_is_shown_and_never_asked(
    tmp_path, networks, url
):
    path = tmp_path / "cameras.json"
    states: list[tuple[str, Status]] = []
    told = threading.Event()

    def note(name: str, status: Status) -> None:
        states.append((name, status))
        told.set()

    fleet = Cameras([], networks, note, kept=kept_of(path, camera("door", url)))
    fleet.start()
    assert told.wait(30)
    ((name, status),) = states
    pid = fleet.pid("door")
    fleet.stop()

    assert (name, status.state, status.code, pid, status.restarts) == (
        *("door", CameraState.STOPPED, CameraCode.NOT_ALLOWED),
        *(0, 0),
    )
    assert [one.name for one in KeptCameras(path).cameras] == ["door"]


def test_kept_cameras_beyond_the_most_are_left_out_and_not_lost(tmp_path, caplog):
    path = tmp_path / "cameras.json"
    kept = kept_of(path, camera("one-more"))

    fleet = Cameras([camera(f"c{i}") for i in range(256)], NETWORKS, ignore, kept=kept)

    assert len(fleet.names()) == 256
    assert [record.message for record in caplog.records] == ["kept_camera_left_out"]
    assert [one.name for one in KeptCameras(path).cameras] == ["one-more"]
    fleet.stop()


def test_camera_that_cannot_be_kept_is_neither_added_nor_removed(tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    fleet = Cameras([], NETWORKS, ignore, kept=KeptCameras(folder / "cameras.json"))
    fleet.add(camera("door"))
    folder.rename(tmp_path / "away")

    with pytest.raises(Unavailable):
        fleet.add(camera("gate", "rtsp://u:never-used@10.0.0.5/"))
    with pytest.raises(Unavailable):
        fleet.remove("door")

    assert fleet.names() == ["door"]
    assert redact("never-used") == "never-used"
    fleet.stop()


def test_many_who_add_and_remove_at_once_leave_what_is_there_in_the_file(tmp_path):
    path = tmp_path / "cameras.json"
    fleet = Cameras([], NETWORKS, ignore, kept=KeptCameras(path))

    def change(number: int) -> None:
        for turn in range(3):
            fleet.add(camera(f"c{number}-{turn}"))
        fleet.remove(f"c{number}-1")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(change, range(6)))

    assert {one.name for one in KeptCameras(path).cameras} == set(fleet.names())
    assert len(fleet.names()) == 12
    fleet.stop()
