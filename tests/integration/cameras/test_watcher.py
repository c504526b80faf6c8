"""The watcher with the real service, its model and its store; frames come from the test's hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from detectors import CLASSIFIER, DETECTOR, quadrant_state
from filming import camera, filming
from serving import publish, serving, wait_served, wait_until
from video import write_video

from fedfleet.data.images import Pixels
from fedfleet.errors import NotFound, Unavailable
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_inference_api.batcher import Forwarded
from fedfleet_inference_api.cameras import watcher as watcher_module
from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.seen import CameraEvent, Frame, View
from fedfleet_inference_api.cameras.watcher import Frames, Submit, Watcher
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.service import InferenceService

PATIENCE_S = 20.0
QUARTERS = {"top left": (8, 8), "top right": (8, 88), "bottom left": (56, 8)}


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


def picture(quarter: str = "") -> Pixels:
    """A dark frame (H, W, 3), with a bright square in one of its quarters."""
    pixels = np.full((96, 160, 3), 60, np.uint8)
    if quarter:
        top, left = QUARTERS[quarter]
        pixels[top : top + 32, left : left + 56] = 250
    return pixels


class Reel:
    """Cameras whose frames a test hands in; keeps the newest one of each, as ``Cameras`` does."""

    def __init__(self, *cameras: Camera) -> None:
        self.cameras = {one.name: one for one in cameras}
        self._frames: dict[str, Frame] = {}
        self._start_s = time.time()

    def names(self) -> list[str]:
        return list(self.cameras)

    def camera(self, name: str) -> Camera:
        if name not in self.cameras:
            raise NotFound(f"there is no camera {name!r}")
        return self.cameras[name]

    def newest(self, name: str, after: int = 0) -> Frame | None:
        frame = self._frames.get(name)
        return frame if frame is not None and frame.sequence > after else None

    def put(self, name: str, pixels: Pixels) -> Frame:
        """The next frame, a fifth of a second of the film's own time after the last one."""
        last = self._frames.get(name)
        sequence = last.sequence + 1 if last else 1
        self._frames[name] = Frame(
            camera=name,
            sequence=sequence,
            at_s=self._start_s + sequence / 5,
            media_s=None,
            pixels=pixels,
        )
        return self._frames[name]


class Seeing:
    """A running watcher, and all that it told."""

    def __init__(self, frames: Frames, service: InferenceService, submit: Submit) -> None:
        self.reel = frames
        self.metrics = Metrics()
        self.views: list[View] = []
        self.events: list[CameraEvent] = []
        self._changed = threading.Condition()
        self.watcher = Watcher(
            frames, service.served, submit, self._view, self.events.append, self.metrics
        )

    def _view(self, view: View) -> None:
        with self._changed:
            self.views.append(view)
            self._changed.notify_all()

    def view_of(self, frame: Frame) -> View:
        """Wait for the view of a frame."""

        def found() -> View | None:
            return next((view for view in self.views if view.frame is frame), None)

        with self._changed:
            assert self._changed.wait_for(found, PATIENCE_S), "the frame was not looked at in time"
            view = found()
        assert view is not None
        return view

    def show(self, pixels: Pixels, *, name: str = "door", times: int = 1) -> View:
        """Hand in frames, each once the one before has been seen; return the last one's view."""
        assert isinstance(self.reel, Reel)
        for _ in range(times):
            view = self.view_of(self.reel.put(name, pixels))
        return view

    def kinds(self, name: str = "door") -> list[str]:
        return [event.kind for event in self.events if event.camera == name]

    def sample(self, metric: str, **labels: str) -> float:
        name = f"fedfleet_inference_camera_{metric}"
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def seeing(
    store: Store, *cameras: Camera, submit: Callable[[InferenceService], Submit] | None = None
) -> Iterator[tuple[Seeing, InferenceService]]:
    with serving(store) as (service, _):
        reel = Reel(*cameras)
        seen = Seeing(reel, service, submit(service) if submit else service.submit)
        seen.watcher.start()
        try:
            yield seen, service
        finally:
            seen.watcher.stop()


def door(name: str = "door", **fields: object) -> Camera:
    return camera(name, "rtsp://192.0.2.1/", **({"fps": 120.0, "motion": False} | fields))


def test_watcher_follows_what_a_served_detector_sees(store: Store):
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    with seeing(store, door()) as (seen, service):
        wait_served(service, version)
        empty = seen.show(picture(), times=3)
        views = [seen.show(picture("top left")) for _ in range(8)]
        seen.show(picture(), times=15)

        assert empty.seen == ()
        (thing,) = views[-1].seen
        assert (thing.label, thing.track) == ("square", 1)
        assert thing.score > 0.9
        assert np.allclose(thing.box, (0, 0, 0.55, 0.55), atol=0.01)
        assert {one.track for view in views for one in view.seen} == {1}
        assert seen.kinds() == ["track_started", "track_ended"]
        model = {
            "name": "shapes",
            "version": 1,
            "round": version.round,
            "digest": version.digest,
        }
        assert [event.model for event in seen.events] == [model, model]
        assert views[-1].model == model
        assert seen.watcher.view("door") is seen.views[-1]
        assert seen.watcher.view("window") is None
        assert seen.sample("looks_total", camera="door") == len(seen.views)
        assert seen.sample("frame_age_seconds_count", camera="door") == len(seen.views)


def test_watcher_looks_only_where_something_moves(store: Store):
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    with seeing(store, door(motion=True, look_every_s=1000.0)) as (seen, service):
        wait_served(service, version)
        seen.show(picture(), times=15)
        looks = seen.sample("looks_total", camera="door")
        quiet = seen.show(picture(), times=20)
        assert seen.sample("looks_total", camera="door") == looks
        assert seen.sample("skipped_frames_total", camera="door", reason="quiet") >= 20
        assert quiet.model["version"] == 1

        seen.show(picture("top right"), times=4)
        assert seen.kinds() == ["track_started"]
        assert seen.views[-1].moving
        assert seen.sample("motion_ratio", camera="door") > 0.05


def test_watcher_shows_frames_until_there_is_a_model_and_looks_from_then_on(store: Store):
    with seeing(store, door()) as (seen, service):
        view = seen.show(picture("top left"), times=3)
        assert (view.seen, dict(view.model)) == ((), {})
        assert seen.sample("skipped_frames_total", camera="door", reason="no_model") == 3

        version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
        wait_served(service, version)
        view = seen.show(picture("top left"), times=4)
        assert [one.track for one in view.seen] == [1]


def test_watcher_goes_on_over_swaps_also_to_another_kind(store: Store):
    first = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    with seeing(store, door(score=0.3)) as (seen, service):
        wait_served(service, first)
        seen.show(picture("top left"), times=4)
        newer = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
        wait_served(service, newer)
        view = seen.show(picture("top left"), times=4)
        assert [one.track for one in view.seen] == [1]
        assert view.model["version"] == 2

        classifier = publish(store, 0, model="shapes", card=CLASSIFIER)
        wait_served(service, classifier)
        view = seen.show(picture("top left"))
        assert len(view.top5) == 3
        assert sum(share for _, share in view.top5) == pytest.approx(1)
        assert seen.kinds() == ["track_started", "track_ended", "classified"]
        assert [event.model["version"] for event in seen.events] == [1, 2, 3]


def test_watcher_never_has_two_frames_of_a_camera_under_way_and_takes_the_newest(store: Store):
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    asked: list[tuple[Pixels, Future[Forwarded]]] = []

    def by_hand(_: InferenceService) -> Submit:
        def submit(servable: object, image: Pixels) -> Future[Forwarded]:
            asked.append((image, Future()))
            return asked[-1][1]

        return submit

    with seeing(store, door("one"), door("two"), submit=by_hand) as (seen, service):
        wait_served(service, version)
        reel = seen.reel
        assert isinstance(reel, Reel)
        first = reel.put("one", picture())
        wait_until(lambda: len(asked) == 1)
        for _ in range(50):
            newest = reel.put("one", picture())
        seen_two = reel.put("two", picture("top left"))  # the other one does not wait
        wait_until(lambda: len(asked) == 2)
        assert seen.views == []

        for image, future in tuple(asked):  # it grows meanwhile
            answer = service.served().answers(image[None])[0]
            future.set_result(Forwarded(answer, 0.0, 0.0, 1))
        seen.view_of(first)
        seen.view_of(seen_two)
        wait_until(lambda: len(asked) == 3)
        answer = service.served().answers(asked[2][0][None])[0]
        asked[2][1].set_result(Forwarded(answer, 0.0, 0.0, 1))
        seen.view_of(newest)  # and none of the 49 before it

        assert len(seen.views) == len(asked) == 3
        assert seen.sample("skipped_frames_total", camera="one", reason="rate") == 49


def test_watcher_drops_frames_while_the_service_is_full(store: Store):
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    refused = [3]

    def sometimes_full(service: InferenceService) -> Submit:
        def submit(servable, image):
            if refused[0]:
                refused[0] -= 1
                raise Unavailable("too many wait")
            return service.submit(servable, image)

        return submit

    with seeing(store, door(), submit=sometimes_full) as (seen, service):
        wait_served(service, version)
        assert not seen.show(picture("top left"), times=3).model
        assert seen.sample("skipped_frames_total", camera="door", reason="busy") == 3
        assert seen.show(picture("top left")).model["version"] == 1
        assert seen.sample("failures_total", camera="door") == 0


def test_watcher_goes_on_with_the_others_when_one_camera_fails(store: Store, caplog):
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    with seeing(store, door("broken", motion=True), door("door")) as (seen, service):
        wait_served(service, version)
        reel = seen.reel
        assert isinstance(reel, Reel)
        for number in range(1, 6):
            reel.put("broken", np.zeros((3,), np.uint8))  # no picture
            wait_until(lambda n=number: seen.sample("failures_total", camera="broken") >= n)
            seen.show(picture("top left"))

        assert seen.show(picture("top left")).seen[0].track == 1
        failures = [one for one in caplog.records if one.message == "camera_not_watched"]
        assert [one.camera for one in failures] == ["broken"]  # once, not five times

        seen.show(picture(), name="broken", times=3)  # and it is watched again
        assert seen.sample("failures_total", camera="broken") == 5


def test_watcher_notices_cameras_that_come_go_and_become_others(store: Store):
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    with seeing(store) as (seen, service):
        wait_served(service, version)
        reel = seen.reel
        assert isinstance(reel, Reel)
        reel.cameras["door"] = door()
        seen.show(picture("top left"), times=4)

        reel.cameras["door"] = door(classes=("circle",))
        reel._frames.clear()  # as of another camera: its frames are counted from 1
        wait_until(lambda: seen.watcher.view("door") is None)
        view = seen.show(picture("top left"), times=4)
        assert view.frame.sequence == 4
        assert view.seen == ()
        assert seen.kinds() == ["track_started", "track_ended"]

        del reel.cameras["door"]
        assert seen.watcher.view("door") is None
        wait_until(lambda: seen.sample("looks_total", camera="door") == 0)  # the series is gone


def test_view_of_a_camera_is_never_that_of_another_that_had_its_name(store: Store):
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    with seeing(store, door()) as (seen, service):
        wait_served(service, version)
        seen.show(picture("top left"))
        seen.watcher.stop()  # the moment before it has noticed

        assert isinstance(seen.reel, Reel)
        assert seen.watcher.view("door") is seen.views[-1]
        seen.reel.cameras["door"] = door()
        assert seen.watcher.view("door") is None
        del seen.reel.cameras["door"]
        assert seen.watcher.view("door") is None


def test_watcher_ends_the_tracks_of_a_camera_that_falls_silent(store: Store, monkeypatch):
    monkeypatch.setattr(watcher_module, "GONE_S", 2.0)
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    with seeing(store, door()) as (seen, service):
        wait_served(service, version)
        seen.show(picture("top left"), times=4)

        wait_until(lambda: seen.kinds() == ["track_started", "track_ended"])
        assert [one.track for one in seen.show(picture("top left"), times=4).seen] == [2]


def test_watcher_keeps_to_a_cameras_rate(store: Store):
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    with seeing(store, door(fps=10.0)) as (seen, service):
        wait_served(service, version)
        reel, until_s = seen.reel, time.monotonic() + 1.5
        assert isinstance(reel, Reel)
        while time.monotonic() < until_s:
            reel.put("door", picture())
            threading.Event().wait(0.005)

        assert 4 <= len(seen.views) <= 18


def test_watcher_stops_while_an_answer_is_under_way(store: Store):
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    pending: Future[Forwarded] = Future()
    with seeing(store, door(), submit=lambda _: lambda servable, image: pending) as (seen, service):
        wait_served(service, version)
        assert isinstance(seen.reel, Reel)
        seen.reel.put("door", picture())
        wait_until(lambda: seen.watcher._watched["door"].is_looking)

    pending.set_exception(Unavailable("shutting down"))  # too late to matter
    assert seen.views == []


def test_watcher_watches_a_video_file(store: Store, tmp_path: Path):
    frames = [picture("top left")] * 20 + [picture()] * 60
    write_video(tmp_path / "film.mp4", frames, fps=20)
    version = publish(store, 0, model="shapes", card=DETECTOR, state=quadrant_state())
    film_camera = camera("file", f"file:{tmp_path / 'film.mp4'}", fps=20.0, loop=True)
    with serving(store) as (service, _), filming(film_camera) as film:
        wait_served(service, version)
        seen = Seeing(film.cameras, service, service.submit)
        seen.watcher.start()
        try:
            wait_until(lambda: {"track_started", "track_ended"} <= set(seen.kinds("file")))
        finally:
            seen.watcher.stop()

        labels = {one.label for view in seen.views for one in view.seen}
        assert labels == {"square"}
        count = seen.sample("frame_age_seconds_count", camera="file")
        assert seen.sample("frame_age_seconds_sum", camera="file") / count < 0.5
