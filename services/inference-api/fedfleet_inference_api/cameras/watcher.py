"""Looks at all cameras' frames with the served model, on one thread that never waits for it.

Each camera has one frame at most on its way through the model, and only its newest one is taken:
frames are dropped, never queued, so that what is told is never old.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from fedfleet.data.images import Pixels
from fedfleet.errors import FedFleetError, NoModel, NotFound, Unavailable
from fedfleet_inference_api.batcher import Forwarded
from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.eye import Eye
from fedfleet_inference_api.cameras.looking import Look, look_at
from fedfleet_inference_api.cameras.motion import Motion
from fedfleet_inference_api.cameras.rate import Pace
from fedfleet_inference_api.cameras.seen import CameraEvent, Frame, View
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.servable import Servable

logger = logging.getLogger(__name__)

POLL_S = 0.005  # between two looks for a frame of a camera that is due
IDLE_POLL_S = 0.05  # the same where none came for long
LONGEST_WAIT_S = 0.1  # until cameras that were added are noticed
SILENT_S = 2.0  # without a frame: polled less often
GONE_S = 10.0  # without a frame: what was followed has ended,
GONE_PERIODS = 3  # but not before so many frames are missing

Submit = Callable[[Servable, Pixels], "Future[Forwarded]"]


class Frames(Protocol):
    """What of ``Cameras`` the watcher uses; each method may be called on any thread."""

    def names(self) -> list[str]: ...

    def camera(self, name: str) -> Camera:
        """Raises NotFound."""

    def newest(self, name: str, after: int = 0) -> Frame | None:
        """The newest frame if its sequence is above ``after``. Raises NotFound."""


class _Watched:
    """One camera, as the watcher's thread has it."""

    def __init__(self, camera: Camera, now_s: float) -> None:
        self.name = camera.name
        self.camera = camera
        self.eye = Eye(camera)
        self.pace = Pace(camera.fps)
        self.sequence = 0  # of the frame that was taken last
        self.frame_s = now_s  # when that was, on the clock that only grows
        self.is_open = False  # a frame came, and what is followed since has not been ended
        self.is_looking = False  # a frame is on its way through the model
        self.failure = ""  # class of the last error, empty after a look without one

    def wait_s(self, now_s: float) -> float:
        """How long nothing is to be done for this camera."""
        if self.is_looking:
            return LONGEST_WAIT_S  # its answer wakes the thread
        poll_s = IDLE_POLL_S if now_s - self.frame_s > SILENT_S else POLL_S
        return max(self.pace.due_s - now_s, poll_s)


class Watcher:
    """Watches every camera that there is, those that come later too.

    Args:
        look: the version to look with, asked for each frame; raises NoModel.
        submit: has an image computed by it on another thread; raises Unavailable.
        on_view: told of each frame that was taken up; on_event of each event. Both are called on
            the watcher's thread and must return at once.
    """

    def __init__(
        self,
        cameras: Frames,
        look: Callable[[], Servable],
        submit: Submit,
        on_view: Callable[[View], None],
        on_event: Callable[[CameraEvent], None],
        metrics: Metrics,
    ) -> None:
        self._cameras = cameras
        self._look = look
        self._submit = submit
        self._on_view = on_view
        self._on_event = on_event
        self._metrics = metrics.cameras
        self._watched: dict[str, _Watched] = {}
        # Replaced as wholes, so readers need no lock.
        self._views: dict[str, tuple[Camera, View]] = {}
        self._answers: deque[tuple[_Watched, Look, Future[Forwarded]]] = deque()
        self._read_s = -LONGEST_WAIT_S  # when the list of cameras was read
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera-watcher")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the thread; answers that come later are dropped."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def view(self, name: str) -> View | None:
        """The newest view of a camera; from any thread. None: there is none yet, or no camera."""
        camera, view = self._views.get(name, (None, None))
        try:
            # This thread notices later than others that there is another camera of this name.
            return view if self._cameras.camera(name) is camera else None
        except NotFound:
            return None

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._step())
            self._wake.clear()

    def _step(self) -> float:
        """Do what is to be done now; return for how long nothing is."""
        if time.monotonic() >= self._read_s + LONGEST_WAIT_S:
            self._read_cameras()
            self._read_s = time.monotonic()
        for watched in list(self._watched.values()):
            self._take_answers()
            now_s = time.monotonic()
            if watched.is_looking or not watched.pace.is_due(now_s):
                continue
            self._supervised(watched, partial(self._take_frame, watched, now_s))
        self._take_answers()
        self._rotate()
        now_s = time.monotonic()
        waits = [watched.wait_s(now_s) for watched in self._watched.values()]
        return min([LONGEST_WAIT_S, *waits])

    def _rotate(self) -> None:
        """Another camera is the first next time."""
        if self._watched:
            name = next(iter(self._watched))
            self._watched[name] = self._watched.pop(name)

    def _read_cameras(self) -> None:
        """Notice cameras that came, went, or became others of the same name."""
        there: dict[str, Camera] = {}
        for name in self._cameras.names():
            try:
                there[name] = self._cameras.camera(name)
            except NotFound:  # removed since
                continue
        for name, watched in list(self._watched.items()):
            if there.get(name) is not watched.camera:
                del self._watched[name]
                self._views.pop(name, None)
                self._supervised(watched, partial(self._close, watched))
                if name not in there:
                    self._metrics.forget(name)
        for name, camera in there.items():
            if name not in self._watched:
                self._watched[name] = _Watched(camera, time.monotonic())

    def _take_frame(self, watched: _Watched, now_s: float) -> None:
        try:
            frame = self._cameras.newest(watched.name, watched.sequence)
        except NotFound:  # removed since; noticed at the next step
            return
        if frame is None:
            silent_s = now_s - watched.frame_s
            if watched.is_open and silent_s > max(GONE_S, GONE_PERIODS / watched.camera.fps):
                self._close(watched)
            return
        watched.pace.take(now_s)
        if watched.sequence:
            self._skip(watched, "rate", frame.sequence - watched.sequence - 1)
        watched.sequence, watched.frame_s, watched.is_open = frame.sequence, now_s, True
        motion = watched.eye.watch(frame)
        if motion is not None:
            self._metrics.motion.labels(self._label(watched)).set(motion.share)
        if watched.eye.wants_look(motion):
            self._begin_look(watched, frame, motion)
        else:
            self._skip(watched, "quiet")
            self._show(watched, watched.eye.rested(frame))

    def _begin_look(self, watched: _Watched, frame: Frame, motion: Motion | None) -> None:
        try:
            look = look_at(frame, motion, self._look())
            future = self._submit(look.servable, look.image)
        except (NoModel, Unavailable) as error:
            self._skip(watched, "no_model" if isinstance(error, NoModel) else "busy")
            self._show(watched, watched.eye.unseen(frame, motion))
            return
        watched.is_looking = True
        future.add_done_callback(partial(self._arrived, watched, look))

    def _arrived(self, watched: _Watched, look: Look, future: Future[Forwarded]) -> None:
        """Called on the model's thread, or on that of whoever cancelled."""
        self._answers.append((watched, look, future))
        self._wake.set()

    def _take_answers(self) -> None:
        while self._answers:
            watched, look, future = self._answers.popleft()
            watched.is_looking = False
            if self._watched.get(watched.name) is watched and not future.cancelled():
                self._supervised(watched, partial(self._answered, watched, look, future))

    def _answered(self, watched: _Watched, look: Look, future: Future[Forwarded]) -> None:
        try:
            answer = future.result().answer
        except FedFleetError as error:
            self._show(watched, watched.eye.unseen(look.frame, look.motion))
            if not isinstance(error, Unavailable):
                raise
            self._skip(watched, "busy")  # dropped from the queue
            return
        answered_s = time.time()
        view, events = watched.eye.answered(look, answer, answered_s)
        self._show(watched, view)
        for event in events:
            self._on_event(event)
        label = self._label(watched)
        self._metrics.looks.labels(label).inc()
        age_s = max(0.0, time.time() - look.frame.at_s)
        self._metrics.frame_age_s.labels(label).observe(age_s)
        watched.failure = ""

    def _close(self, watched: _Watched) -> None:
        """No frames come any more: end what was followed."""
        watched.is_open = False
        for event in watched.eye.closed(time.time()):
            self._on_event(event)

    def _show(self, watched: _Watched, view: View) -> None:
        self._views[watched.name] = watched.camera, view
        self._on_view(view)

    def _skip(self, watched: _Watched, reason: str, frames: int = 1) -> None:
        self._metrics.skipped.labels(self._label(watched), reason).inc(max(0, frames))

    def _label(self, watched: _Watched) -> str:
        return self._metrics.label(watched.name)

    def _supervised(self, watched: _Watched, work: Callable[[], None]) -> None:
        """One camera's error, or one frame's, never stops the others."""
        try:
            work()
        except Exception as error:
            code = error.code if isinstance(error, FedFleetError) else "unforeseen"
            self._metrics.failures.labels(self._label(watched)).inc()
            failure = f"{code} {type(error).__name__}"
            if failure != watched.failure:  # once, not at every frame
                logger.exception("camera_not_watched", extra={"camera": watched.name})
            watched.failure = failure
            if watched.pace.is_due(time.monotonic()):  # else it would be tried without a pause
                watched.pace.take(time.monotonic())
