"""Follows things over frames, so that each has one id from when it comes until it goes.

Kalman filter and assignment of SORT (Bewley et al. 2016, arXiv:1602.00763); sure detections first,
then doubtful ones only for tracks that would else be lost, as ByteTrack (Zhang et al. 2022,
arXiv:2110.06864, algorithm 1); boxes are compared grown by a share of their sides, because at a
few frames per second a thing has often left its own box (Yang et al. 2023, arXiv:2211.14317).
Ours differs in what time is: seconds, not frames; and in that a thing which stands where nothing
moves stays, whether a detector misses it now and then or not.

Legend: T = tracks, D = detections.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedfleet_inference_api.cameras.assignment import Matrix, best_pairs
from fedfleet_inference_api.cameras.overlap import grow, overlap, rows_of
from fedfleet_inference_api.cameras.seen import Box, Seen
from fedfleet_inference_api.cameras.track import Track

CONFIRM_HITS = 3
MAX_AGE_S = 2.0
STILL_AGE_S = 60.0
DOUBTFUL_MISSES = 2  # looks without it that end a track which was not confirmed
NEAR, FAR = 0.3, 1.0  # growth of boxes, in sides: first for all, then for whom none was near
LEAST_OVERLAP = 0.2  # of grown boxes
LEAST_DOUBTFUL = 0.4  # of boxes as they are, for doubtful detections
OTHER_CLASS = 0.5  # what an overlap counts where the class differs
SAME_THING = 0.7  # overlap from which two detections are taken for one thing


class Tracker:
    """The tracks of one camera; ids count up from 1 and never come back.

    Args:
        sure: score from which a detection may begin a track; lower ones only keep tracks alive.
        confirm_hits: sure detections until a track is shown and has an id.
        max_age_s: how long a track outlives its last detection, but always one look longer.
        still_age_s: the same for a thing that stood still, while nothing moves where it stands.
    """

    def __init__(
        self,
        sure: float,
        *,
        confirm_hits: int = CONFIRM_HITS,
        max_age_s: float = MAX_AGE_S,
        still_age_s: float = STILL_AGE_S,
    ) -> None:
        self._sure = sure
        self._confirm_hits = confirm_hits
        self._max_age_s = max_age_s
        self._still_age_s = still_age_s
        self._tracks: list[Track] = []
        self._last_id = 0

    @property
    def alive(self) -> frozenset[int]:
        """Ids of all tracks that have not ended, those out of sight too."""
        return frozenset(track.track_id for track in self._tracks if track.track_id)

    @property
    def is_settled(self) -> bool:
        """Whether a quiet picture needs no look: nobody is on the move, new or out of sight."""
        return all(track.is_settled for track in self._tracks)

    def visible(self) -> tuple[Seen, ...]:
        """Things that are confirmed, and seen at the last look or known to be there, by id."""
        shown = [track.as_seen() for track in self._tracks if track.is_visible]
        return tuple(sorted(shown, key=lambda seen: seen.track))

    def update(
        self, found: Sequence[Seen], at_s: float, moving: Sequence[Box] | None = None
    ) -> None:
        """Take in all that a look found; the order of it does not matter.

        Args:
            at_s: when the frame was taken.
            moving: regions in which something moved; None: nothing is known of that.
        """
        for track in self._tracks:
            track.filter.predict(at_s)
        ordered = sorted(found, key=lambda seen: (-seen.score, seen.index, seen.box))
        sure = [seen for seen in ordered if seen.score >= self._sure]
        doubtful = [seen for seen in ordered if seen.score < self._sure]
        lost, new = self._match(self._tracks, sure, NEAR, LEAST_OVERLAP)
        lost, new = self._match(lost, new, FAR, LEAST_OVERLAP)
        lost = self._match_doubtful(lost, doubtful)
        for track in lost:
            track.miss(moving)
        self._tracks = [track for track in self._tracks if not self._has_ended(track, at_s)]
        self._begin(sure, new, at_s)
        for track in self._tracks:
            if not track.track_id and track.hits >= self._confirm_hits:
                self._last_id += 1
                track.track_id = self._last_id

    def rest(self, at_s: float) -> None:
        """Nothing moves in the picture, and nobody looked: whoever was there still is."""
        for track in self._tracks:
            track.rest(at_s)

    def clear(self) -> None:
        """End all tracks."""
        self._tracks = []

    def _match(
        self, tracks: list[Track], found: list[Seen], growth: float, least: float
    ) -> tuple[list[Track], list[Seen]]:
        """Give tracks what was found of them; return the tracks and the finds that are left."""
        pairs = best_pairs(_likeness(tracks, found, growth), least)
        for row, column in pairs:
            tracks[row].hit(found[column], is_sure=found[column].score >= self._sure)
        matched, used = {row for row, _ in pairs}, {column for _, column in pairs}
        return (
            [track for row, track in enumerate(tracks) if row not in matched],
            [seen for column, seen in enumerate(found) if column not in used],
        )

    def _match_doubtful(self, lost: list[Track], doubtful: list[Seen]) -> list[Track]:
        """Only for confirmed tracks that were there at the last look; the rest are noise."""
        present = [track for track in lost if track.is_visible]
        absent = [track for track in lost if not track.is_visible]
        left, _ = self._match(present, doubtful, 0.0, LEAST_DOUBTFUL)
        return absent + left

    def _begin(self, sure: list[Seen], new: list[Seen], at_s: float) -> None:
        """Begin a track for each new thing that is not a second box of another one."""
        begun = [seen for seen in sure if not any(seen is other for other in new)]
        for seen in new:
            same = overlap(rows_of([seen.box]), rows_of([other.box for other in begun]))
            if not (same >= SAME_THING).any():
                begun.append(seen)
                self._tracks.append(Track(seen, at_s))

    def _has_ended(self, track: Track, at_s: float) -> bool:
        if not track.missed:
            return False
        if not track.track_id:
            return track.missed >= DOUBTFUL_MISSES
        is_gone = at_s - track.known_at_s > self._max_age_s
        return track.missed > 1 and (is_gone or at_s - track.seen_at_s > self._still_age_s)


def _likeness(tracks: list[Track], found: list[Seen], growth: float) -> Matrix:
    """How far each track's box overlaps with each detection's, both grown: shape (T, D)."""
    here = grow(rows_of([track.filter.box for track in tracks]), growth)
    there = grow(rows_of([seen.box for seen in found]), growth)
    shares = overlap(here, there)
    differs = np.array(
        [[track.label != seen.label for seen in found] for track in tracks], np.bool_
    ).reshape(shares.shape)
    return np.where(differs, OTHER_CLASS * shares, shares)
