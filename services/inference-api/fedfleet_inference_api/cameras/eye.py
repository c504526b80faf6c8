"""What one camera knows of what it sees: its motion gate, its tracks, what was told of them.

No threads and no clock in here: frames and answers come in, views and events go out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.looking import Look
from fedfleet_inference_api.cameras.model_events import model_json
from fedfleet_inference_api.cameras.motion import Motion, MotionGate
from fedfleet_inference_api.cameras.seen import Box, CameraEvent, Frame, Seen, View
from fedfleet_inference_api.cameras.told import ClassTeller, TrackTeller
from fedfleet_inference_api.cameras.tracker import Tracker
from fedfleet_inference_api.cameras.zones import is_told, is_wanted, zones_of

MOST_MOVING = 64  # regions that are remembered from one look to the next


class Eye:
    """One camera's; used by one thread.

    Args:
        camera: as it was configured.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self._gate = MotionGate()
        self._tracker = Tracker(camera.score)
        self._tracks = TrackTeller(camera)
        self._classes = ClassTeller(camera)
        self._kind: tuple[str, tuple[str, ...]] = ("", ())  # of the model that looked last
        self._model: dict[str, Any] = {}
        # Times of its own film, which never go back as the time of day may.
        self._film_s = 0.0
        self._last_look_s = -float("inf")
        self._frame_at_s = float("inf")  # the last frame's time of day
        self._seen_at_s = 0.0
        self._moving: tuple[Box, ...] = ()  # regions since the last answered look

    def watch(self, frame: Frame) -> Motion | None:
        """Take up the next frame: what its motion gate says; None for a camera that has none."""
        self._film_s += max(0.0, frame.at_s - self._frame_at_s)
        self._frame_at_s = frame.at_s
        if not self.camera.motion:
            return None
        motion = self._gate.look(frame.pixels, self._film_s)
        self._moving = (self._moving + motion.regions)[-MOST_MOVING:]
        return motion

    def wants_look(self, motion: Motion | None) -> bool:
        """Whether a model should look at the frame: something moves, is new, or it is time."""
        return (
            motion is None
            or not motion.is_quiet
            or self._film_s - self._last_look_s >= self.camera.look_every_s
            or not self._tracker.is_settled
        )

    def rested(self, frame: Frame) -> View:
        """The view of a frame in which nothing moved: what was seen before is still there."""
        self._tracker.rest(self._film_s)
        return View(frame=frame, seen=self._shown(), model=self._model, seen_at_s=self._seen_at_s)

    def unseen(self, frame: Frame, motion: Motion | None) -> View:
        """The view of a frame that no model could look at."""
        return View(frame=frame, moving=motion.regions if motion else ())

    def answered(
        self, look: Look, answer: npt.NDArray[np.float32], seen_at_s: float
    ) -> tuple[View, list[CameraEvent]]:
        """Take in what a model said of the frame that was taken up last.

        Args:
            seen_at_s: since the epoch, when it had answered.
        """
        events = self._change_model(look)
        self._last_look_s, self._seen_at_s = self._film_s, seen_at_s
        moving, self._moving = self._moving, ()
        top5: Sequence[Seen] = ()
        if look.is_detection:
            seen = self._track(look, answer, moving)
            events += self._told(seen, look)
        else:
            top5 = look.classes(answer)
            seen = self._recognised(top5[0])
            events += self._tell_class(top5, look) if seen else []
        view = View(
            frame=look.frame,
            seen=tuple(one for one in seen if is_told(self.camera, one.zones)),
            top5=tuple((one.label, one.score) for one in top5),
            moving=look.motion.regions if look.motion else (),
            model=self._model,
            seen_at_s=seen_at_s,
        )
        return view, events

    def closed(self, at_s: float) -> list[CameraEvent]:
        """No frames come any more: end what was followed, and begin anew with the next one."""
        self._tracker.clear()
        self._gate = MotionGate()
        self._last_look_s = -float("inf")
        return self._tracks.tell((), (), at_s, self._model)

    def _change_model(self, look: Look) -> list[CameraEvent]:
        """Tracks go on when another version of the same kind and classes looks, else they end."""
        card = look.servable.card
        events: list[CameraEvent] = []
        if self._kind != (card.kind, card.classes):
            self._tracker.clear()
            events = self._tracks.tell((), (), look.frame.at_s, self._model)
            self._classes = ClassTeller(self.camera)
            self._kind = (card.kind, card.classes)
        self._model = model_json(look.servable)
        return events

    def _track(
        self, look: Look, answer: npt.NDArray[np.float32], moving: tuple[Box, ...]
    ) -> tuple[Seen, ...]:
        found = [
            seen
            for seen in look.detections(answer, self.camera.score)
            if is_wanted(self.camera, seen.label)
        ]
        is_known = look.motion is not None and not look.motion.is_learning
        self._tracker.update(found, self._film_s, moving if is_known else None)
        return self._visible()

    def _visible(self) -> tuple[Seen, ...]:
        return tuple(
            replace(seen, zones=zones_of(self.camera.zones, seen.label, seen.box))
            for seen in self._tracker.visible()
        )

    def _shown(self) -> tuple[Seen, ...]:
        return tuple(seen for seen in self._visible() if is_told(self.camera, seen.zones))

    def _told(self, seen: Sequence[Seen], look: Look) -> list[CameraEvent]:
        return self._tracks.tell(seen, self._tracker.alive, look.frame.at_s, self._model)

    def _recognised(self, best: Seen) -> tuple[Seen, ...]:
        """What a classification is sure of, if this camera is to tell of it."""
        zones = zones_of(self.camera.zones, best.label, best.box)
        if best.score < self.camera.score or not is_wanted(self.camera, best.label):
            return ()
        return (replace(best, zones=zones),) if is_told(self.camera, zones) else ()

    def _tell_class(self, top5: Sequence[Seen], look: Look) -> list[CameraEvent]:
        named = [(one.label, one.score) for one in top5]
        return self._classes.tell(named, top5[0].box, look.frame.at_s, self._model)
