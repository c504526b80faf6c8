from __future__ import annotations

from dataclasses import replace

import pytest

from fedfleet.errors import CameraInvalid, NotFound
from fedfleet.obs.redaction import redact
from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.fleet import Cameras
from fedfleet_inference_api.cameras.networks import CameraNetworks, parse_camera_networks
from fedfleet_inference_api.cameras.secrets import Secret
from fedfleet_inference_api.cameras.seen import CameraState

NETWORKS = parse_camera_networks("10.0.0.0/8")


def camera(name: str = "door", url: str = "rtsp://u:hush-hush@10.0.0.5/live") -> Camera:
    return Camera(name=name, url=Secret(url))


def cameras(*configured: Camera, networks: CameraNetworks = NETWORKS) -> Cameras:
    return Cameras(configured, networks, lambda name, status: None)


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
