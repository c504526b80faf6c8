"""One thing that is followed: where it is, what it is, since when it was not seen."""

from __future__ import annotations

from collections.abc import Sequence

from fedfleet_inference_api.cameras.kalman import BoxFilter
from fedfleet_inference_api.cameras.overlap import meet, overlap, rows_of
from fedfleet_inference_api.cameras.seen import Box, Seen

STILL_OVERLAP = 0.6  # with where it came to rest; a detector's boxes tremble
STILL_S = 1.0  # so long in its place it counts as standing still
VOTE_FADE = 0.9  # of the classes seen before, at each look


class Track:
    """The state of one track; times are those of the frames.

    Args:
        seen: what it began with.
        at_s: when that was.
    """

    def __init__(self, seen: Seen, at_s: float) -> None:
        self.track_id = 0  # until it is confirmed
        self.filter = BoxFilter(seen.box, at_s)
        self.hits = 1  # sure detections
        self.missed = 0  # looks since it was last seen
        self.is_held = False  # not seen, but it stood still and nothing moved there
        self.seen_at_s = at_s
        self.known_at_s = at_s  # when it was seen, or known to be there, last
        self.score = seen.score  # the last one that was sure
        self._box = seen.box
        self._votes: dict[tuple[int, str], float] = {}
        self._rest_box = seen.box
        self._rest_since_s = at_s
        self._vote(seen)

    @property
    def label(self) -> str:
        return self._class[1]

    @property
    def is_visible(self) -> bool:
        """Whether it can be shown: it is confirmed, and seen or known to be there."""
        return bool(self.track_id) and (not self.missed or self.is_held)

    @property
    def is_settled(self) -> bool:
        """Whether a picture in which nothing moves says nothing new of it."""
        return self.is_visible and self.is_still

    @property
    def is_still(self) -> bool:
        return self.seen_at_s - self._rest_since_s >= STILL_S

    @property
    def _class(self) -> tuple[int, str]:
        return max(self._votes, key=lambda key: (self._votes[key], key))

    def hit(self, seen: Seen, *, is_sure: bool) -> None:
        """It was seen at the time to which its filter has been moved."""
        self.filter.correct(seen.box)
        self.seen_at_s = self.known_at_s = self.filter.at_s
        self.hits += is_sure
        self.missed, self.is_held = 0, False
        self._box = seen.box
        if is_sure:
            self.score = seen.score
        self._vote(seen)
        if float(overlap(rows_of([seen.box]), rows_of([self._rest_box]))[0, 0]) < STILL_OVERLAP:
            self._rest_box, self._rest_since_s = seen.box, self.filter.at_s

    def miss(self, moving: Sequence[Box] | None) -> None:
        """It was not among what was seen.

        Args:
            moving: regions in which something moved since the last look; None: unknown.
        """
        self.missed += 1
        stands = self.is_still and (self.is_held or self.missed == 1)
        self.is_held = stands and moving is not None and not meet(self._box, moving)
        if self.is_held:
            self.known_at_s = self.filter.at_s
            self.filter.rest(self.filter.at_s)

    def rest(self, at_s: float) -> None:
        """Nothing moved in the whole picture up to a time."""
        self.filter.rest(at_s)
        if self.is_visible:
            self.known_at_s = self.filter.at_s
        if not self.missed:
            self.seen_at_s = self.filter.at_s

    def as_seen(self) -> Seen:
        """As viewers are shown it: where it was last seen."""
        index, label = self._class
        return Seen(label=label, index=index, score=self.score, box=self._box, track=self.track_id)

    def _vote(self, seen: Seen) -> None:
        key = (seen.index, seen.label)
        self._votes = {old: VOTE_FADE * votes for old, votes in self._votes.items()}
        self._votes[key] = self._votes.get(key, 0.0) + seen.score
