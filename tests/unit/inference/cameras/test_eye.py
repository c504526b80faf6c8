from __future__ import annotations

import numpy as np
import pytest
from detectors import CLASSIFIER, DETECTOR, Thing, detector_answer, servable

from fedfleet_inference_api.cameras.config import Camera, Zone
from fedfleet_inference_api.cameras.eye import Eye
from fedfleet_inference_api.cameras.looking import look_at
from fedfleet_inference_api.cameras.secrets import Secret
from fedfleet_inference_api.cameras.seen import CameraEvent, Frame, View
from fedfleet_inference_api.servable import Servable

HEIGHT, WIDTH, FPS = 90, 160, 5.0
LEFT = Zone(name="left", points=((0, 0), (0.5, 0), (0.5, 1), (0, 1)))
VERSION_1 = servable(DETECTOR, 1)


def camera(**fields: object) -> Camera:
    return Camera(name="door", url=Secret("rtsp://192.0.2.1/"), **fields)  # type: ignore[arg-type]


def box_at(x: float) -> tuple[float, float, float, float]:
    return x, 0.3, x + 0.2, 0.7


class Scene:
    """A camera that sees one square at 5 frames per second; its detector sees just that."""

    def __init__(self, **fields: object) -> None:
        self.eye = Eye(camera(**fields))
        self.at_s, self.sequence = 1e6, 0
        self.looks = 0
        self.events: list[CameraEvent] = []
        self.ground = np.random.default_rng(0).integers(80, 120, (HEIGHT, WIDTH, 3), np.uint8)

    def frame(self, x: float | None) -> Frame:
        self.at_s, self.sequence = self.at_s + 1 / FPS, self.sequence + 1
        pixels = self.ground.copy()
        if x is not None:
            left, top, right, bottom = box_at(x)
            rows = slice(round(top * HEIGHT), round(bottom * HEIGHT))
            pixels[rows, round(left * WIDTH) : round(right * WIDTH)] = (250, 240, 40)
        return Frame(
            camera="door", sequence=self.sequence, at_s=self.at_s, media_s=None, pixels=pixels
        )

    def show(self, x: float | None, *, version: Servable = VERSION_1, score: float = 0.9) -> View:
        """One frame with the square at a place, or without it."""
        frame = self.frame(x)
        motion = self.eye.watch(frame)
        if not self.eye.wants_look(motion):
            return self.eye.rested(frame)
        self.looks += 1
        look = look_at(frame, motion, version)
        if look.is_detection:
            things: list[Thing] = [] if x is None else [(1, score, box_at(x))]
            answer = detector_answer(version.card, things)
        else:
            answer = np.array([0, 5, 0] if x is not None else [5, 0, 0], np.float32)
        view, events = self.eye.answered(look, answer, frame.at_s + 0.03)
        self.events += events
        return view

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def test_thing_is_followed_from_when_it_comes_until_it_goes():
    scene = Scene()
    for _ in range(15):
        scene.show(None)
    views = [scene.show(0.05 + 0.03 * step) for step in range(25)]
    for _ in range(20):
        scene.show(None)

    tracks = {one.track for view in views[3:] for one in view.seen}
    assert tracks == {1}
    assert all(len(view.seen) == 1 for view in views[3:])
    assert scene.kinds()[0] == "track_started"
    assert scene.kinds()[-1] == "track_ended"
    assert set(scene.kinds()[1:-1]) == {"track_moved"}
    assert scene.kinds().count("track_moved") in (3, 4, 5)  # in 5 s, once a second at most
    assert scene.events[0].model == {
        "name": "shapes",
        "version": 1,
        "round": 1,
        "digest": f"{1:064x}",
    }


def test_quiet_picture_is_looked_at_now_and_then():
    scene = Scene(look_every_s=4.0)
    for _ in range(15):
        scene.show(None)
    scene.looks = 0

    for _ in range(100):  # 20 s
        scene.show(None)

    assert scene.looks == 5


def test_camera_without_a_gate_looks_at_every_frame():
    scene = Scene(motion=False)

    views = [scene.show(0.3) for _ in range(10)]

    assert scene.looks == 10
    assert views[-1].moving == ()


def test_thing_that_stands_still_keeps_its_track_without_looks():
    scene = Scene(look_every_s=30.0)
    for _ in range(15):
        scene.show(None)
    for step in range(10):
        scene.show(0.05 + 0.03 * step)
    for _ in range(30):  # it comes to rest, and into the background
        scene.show(0.35)
    scene.looks = 0

    views = [scene.show(0.35) for _ in range(50)]

    assert scene.looks == 0
    assert {one.track for view in views for one in view.seen} == {1}
    assert all(view.model["version"] == 1 and view.seen for view in views)
    assert "track_ended" not in scene.kinds()


def test_detector_that_misses_what_stands_still_does_not_end_it():
    scene = Scene(look_every_s=1.0)
    for _ in range(15):
        scene.show(None)
    for _ in range(40):
        scene.show(0.35)

    for _ in range(50):  # 10 s of looks that see nothing
        view = scene.show(0.35, score=0.01)

    assert [one.track for one in view.seen] == [1]
    for _ in range(25):
        scene.show(None)
    assert scene.kinds()[-1] == "track_ended"


def test_only_the_cameras_classes_are_seen():
    scene = Scene(motion=False, classes=("circle",))

    for _ in range(5):
        view = scene.show(0.3)

    assert view.seen == ()
    assert scene.events == []


def test_things_are_seen_while_they_stand_in_a_zone():
    scene = Scene(motion=False, zones=(LEFT,))

    views = [scene.show(0.05 + 0.03 * step) for step in range(25)]

    inside = [bool(view.seen) for view in views]
    assert inside == [3 <= step + 1 <= 12 for step in range(25)]
    assert {one.zones for view in views for one in view.seen} == {("left",)}
    assert scene.kinds()[0] == "track_started"
    assert scene.events[-1].fields["zones"] == []  # it left the zone, and that was the last


def test_newer_version_goes_on_with_the_tracks_of_the_older_one():
    scene = Scene(motion=False)
    for _ in range(5):
        scene.show(0.3)

    for _ in range(5):
        view = scene.show(0.3, version=servable(DETECTOR, 2))

    assert [one.track for one in view.seen] == [1]
    assert view.model["version"] == 2
    assert scene.kinds() == ["track_started"]


def test_version_of_another_kind_ends_the_tracks():
    scene = Scene(motion=False)
    for _ in range(5):
        scene.show(0.3)

    view = scene.show(0.3, version=servable(CLASSIFIER, 2))
    assert scene.kinds() == ["track_started", "track_ended", "classified"]
    assert [event.model["version"] for event in scene.events] == [1, 1, 2]
    assert view.top5[0][0] == "square"
    assert [(one.label, one.track) for one in view.seen] == [("square", 0)]

    for _ in range(5):
        view = scene.show(0.3)
    assert [one.track for one in view.seen] == [2]  # ids never come back
    assert view.top5 == ()


@pytest.mark.parametrize("fields", [{"score": 0.999}, {"classes": ("triangle",)}])
def test_classification_that_is_not_wanted_is_shown_and_not_told(fields: dict[str, object]):
    scene = Scene(motion=False, **fields)

    view = scene.show(0.3, version=servable(CLASSIFIER))

    assert view.top5[0][0] == "square"
    assert view.seen == ()
    assert scene.events == []


def test_camera_that_gives_no_more_frames_ends_its_tracks():
    scene = Scene(motion=False)
    for _ in range(5):
        scene.show(0.3)

    events = scene.eye.closed(scene.at_s + 10)

    assert [event.kind for event in events] == ["track_ended"]
    assert scene.eye.closed(scene.at_s + 20) == []


def test_frame_that_no_model_saw_is_shown_with_what_moves():
    scene = Scene()
    for _ in range(15):
        scene.show(None)
    frame = scene.frame(0.5)

    view = scene.eye.unseen(frame, scene.eye.watch(frame))

    assert view.frame is frame
    assert view.moving
    assert (view.seen, dict(view.model)) == ((), {})


def test_clock_that_is_set_back_ends_nothing_and_holds_nothing_up():
    scene = Scene(look_every_s=2.0)
    for _ in range(15):
        scene.show(None)
    for step in range(10):
        scene.show(0.05 + 0.03 * step)
    scene.at_s -= 3600
    for step in range(10, 20):
        view = scene.show(0.05 + 0.03 * step)
    assert [one.track for one in view.seen] == [1]
    assert "track_ended" not in scene.kinds()
    moved = [event.at_s for event in scene.events if event.kind == "track_moved"]
    assert moved[-1] < 1e6  # told of after that too

    for _ in range(40):
        scene.show(None)
    assert scene.kinds()[-1] == "track_ended"
