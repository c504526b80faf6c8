"""What is told of a camera's things: that one came, moved or went, and what a region shows.

A thing is told of while it stands in one of the camera's zones, or anywhere where it has none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.overlap import overlap, rows_of
from fedfleet_inference_api.cameras.seen import Box, CameraEvent, Seen
from fedfleet_inference_api.cameras.zones import is_told, zones_of

MOVED_EVERY_S = 1.0  # of one track
MOVED_OVERLAP = 0.9  # with the box that was told of last; below it the thing has moved
SAME_LABEL = 2  # looks in a row that a new class must come first in, to be told

Model = Mapping[str, Any]  # name, version, round, digest; JSON values
Top5 = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class _Last:
    """What was told of a track last and when, and how it was seen last and by which version."""

    told: Seen
    told_at_s: float
    seen: Seen
    model: Model


class TrackTeller:
    """Turns what is visible, look by look, into events of tracks."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._last: dict[int, _Last] = {}

    def tell(
        self, visible: Sequence[Seen], alive: Collection[int], at_s: float, model: Model
    ) -> list[CameraEvent]:
        """Events since the last call.

        Args:
            visible: things with a track and their zones.
            alive: ids of all tracks that have not ended, those out of sight too.
            model: the version that saw them.
        """
        events = [
            self._event("track_ended", last.seen, at_s, last.model)
            for track, last in sorted(self._last.items())
            if track not in alive
        ]
        self._last = {track: last for track, last in self._last.items() if track in alive}
        for seen in visible:
            kind = self._kind(seen, at_s)
            if kind:
                self._last[seen.track] = _Last(seen, at_s, seen, model)
                events.append(self._event(kind, seen, at_s, model))
            elif seen.track in self._last:
                last = self._last[seen.track]
                self._last[seen.track] = replace(last, seen=seen, model=model)
        return events

    def _kind(self, seen: Seen, at_s: float) -> str:
        last = self._last.get(seen.track)
        if last is None:
            return "track_started" if is_told(self._camera, seen.zones) else ""
        if not is_told(self._camera, (*seen.zones, *last.told.zones)):
            return ""
        is_due = not 0 <= at_s - last.told_at_s < MOVED_EVERY_S  # or the clock was set back
        return "track_moved" if is_due and _has_changed(last.told, seen) else ""

    def _event(self, kind: str, seen: Seen, at_s: float, model: Model) -> CameraEvent:
        fields = {
            "label": seen.label,
            "score": round(seen.score, 4),
            "box": _rounded(seen.box),
            "track": seen.track,
            "zones": list(seen.zones),
        }
        return CameraEvent(
            camera=self._camera.name, at_s=at_s, kind=kind, fields=fields, model=model
        )


class ClassTeller:
    """Turns classifications, look by look, into events: when the class changes, else now and then.

    Args:
        camera: its ``look_every_s`` is how often the same class is told again.
    """

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._told = ""
        self._told_at_s = -float("inf")
        self._new = ""
        self._new_looks = 0

    def tell(self, top5: Top5, box: Box, at_s: float, model: Model) -> list[CameraEvent]:
        """The event of a classification that is to be told, or none.

        Args:
            top5: label and probability, most probable first, one or more.
            box: the region that was looked at.
        """
        label = top5[0][0]
        self._new_looks = self._new_looks + 1 if label == self._new else 1
        self._new = label
        if label == self._told:
            is_due = not 0 <= at_s - self._told_at_s < self._camera.look_every_s
        else:
            is_due = not self._told or self._new_looks >= SAME_LABEL
        if not is_due:
            return []
        self._told, self._told_at_s = label, at_s
        fields = {
            "top5": [{"label": name, "probability": round(share, 4)} for name, share in top5],
            "box": _rounded(box),
            "zones": list(zones_of(self._camera.zones, label, box)),
        }
        return [
            CameraEvent(
                camera=self._camera.name, at_s=at_s, kind="classified", fields=fields, model=model
            )
        ]


def _has_changed(last: Seen, now: Seen) -> bool:
    if (last.label, last.zones) != (now.label, now.zones):
        return True
    return bool(overlap(rows_of([last.box]), rows_of([now.box]))[0, 0] < MOVED_OVERLAP)


def _rounded(box: Box) -> list[float]:
    return [round(side, 4) for side in box]
