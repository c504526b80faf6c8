from __future__ import annotations

from fedfleet_inference_api.metrics import MOST_CAMERA_SERIES, OTHER_CAMERAS, Metrics


def test_cameras_beyond_the_most_share_a_series():
    cameras = Metrics().cameras
    first = [cameras.label(f"camera-{number}") for number in range(MOST_CAMERA_SERIES)]

    assert first == [f"camera-{number}" for number in range(MOST_CAMERA_SERIES)]
    assert cameras.label("one-more") == cameras.label("another") == OTHER_CAMERAS
    assert cameras.label("camera-3") == "camera-3"


def test_series_of_a_removed_camera_go_and_make_room():
    metrics = Metrics()
    for number in range(MOST_CAMERA_SERIES):
        metrics.cameras.label(f"camera-{number}")
    assert b'camera="camera-7"' in metrics.render()

    metrics.cameras.forget("camera-7")
    metrics.cameras.forget("unknown")

    assert b'camera="camera-7"' not in metrics.render()
    assert metrics.cameras.label("new") == "new"
