"""What the coordinator remembers of each worker, for selections that look back.

A value: both drivers keep one, advance it with each round's commit, and store it beside the
algorithm's memory, so that after a restart the next cohort is the one that would have been drawn.

Legend: W = workers, F = fields of ``Seen``, R = rounds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter

import numpy as np

from fedfleet.algorithms.base import Memory
from fedfleet.types import Array, UpdateHeader

# The metric of a worker's training that Oort asks for: the root of the mean squared loss of a
# sample, over the first epoch.
RMS_LOSS = "rms_loss"
_LOSS = "train_loss"
# Weight of a worker's newest duration in what is expected of it.
_NEWEST = 0.5
# Keys of the stored memory that are the selection's; algorithms neither see nor use them.
_PREFIX = "selection."
_NAMES, _SEEN, _UTILITY = (_PREFIX + key for key in ("names", "seen", "utility"))


@dataclass(frozen=True, slots=True)
class Seen:
    """One worker, as of its last assignments to train.

    Args:
        asked: assignments that it was given.
        delivered: those of which an update counted.
        last: the round of its last assignment.
        loss: mean training loss that it last reported, in nats; NaN before.
        rms_loss: root of the mean squared loss of a sample; NaN if it does not report it.
        samples: training examples behind its last update.
        duration_s: from its last assignment to the update; 0 where nobody measured.
        expected_s: what its next one will take: the mean of its durations, of which each weighs
            half as much as the one after it; no less than it was last waited for in vain. 0
            where nobody measured.
    """

    asked: float = 0
    delivered: float = 0
    last: float = 0
    loss: float = math.nan
    rms_loss: float = math.nan
    samples: float = math.nan
    duration_s: float = 0.0
    expected_s: float = 0.0

    @property
    def utility(self) -> float:
        """Oort's statistical utility: samples times the root of the mean squared loss; or 0."""
        known = not (math.isnan(self.samples) or math.isnan(self.rms_loss))
        return self.samples * self.rms_loss if known else 0.0


@dataclass(frozen=True, eq=False)
class History:
    """Everything seen so far in a run.

    Args:
        seen: by worker, of those that were asked.
        utility: for each round, the mean utility of its updates by workers known before, or 0.
    """

    seen: Mapping[str, Seen] = field(default_factory=dict)
    utility: Sequence[float] = ()

    def of(self, worker_id: str) -> Seen:
        """What is known of a worker."""
        return self.seen.get(worker_id, _NOBODY)

    def samples(self, names: Collection[str]) -> dict[str, float]:
        """How many samples each has; whoever never said it counts as the mean of those who did."""
        found = {name: self.of(name).samples for name in names}
        known = [samples for samples in found.values() if not math.isnan(samples)]
        usual = math.fsum(known) / len(known) if known else 1.0
        return {name: usual if math.isnan(n) else n for name, n in found.items()}

    def after(
        self,
        round: int,
        asked: Collection[str],
        headers: Sequence[UpdateHeader],
        durations_s: Mapping[str, float],
    ) -> History:
        """The history once a round is committed.

        Args:
            asked: workers that were given an assignment to train, whatever became of it.
            headers: of the updates that count.
            durations_s: by worker, from the assignment to its update; of those without an update
                that counts, how long they were waited for.
        """
        seen = dict(self.seen)
        for worker_id in asked:
            before = self.of(worker_id)
            seen[worker_id] = replace(before, asked=before.asked + 1, last=float(round))
        for worker_id, lasted_s in durations_s.items():
            before = seen.get(worker_id, _NOBODY)
            seen[worker_id] = replace(before, expected_s=max(before.expected_s, lasted_s))
        for header in headers:
            before = seen.get(header.worker_id, _NOBODY)
            seen[header.worker_id] = replace(
                before,
                delivered=before.delivered + 1,
                loss=_metric(header, _LOSS),
                rms_loss=_metric(header, RMS_LOSS),
                samples=float(header.weight),
                duration_s=durations_s.get(header.worker_id, 0.0),
                expected_s=_expected_s(
                    self.of(header.worker_id), durations_s.get(header.worker_id, 0.0)
                ),
            )
        again = [
            seen[header.worker_id].utility for header in headers if header.worker_id in self.seen
        ]
        utility = math.fsum(again) / len(again) if again else 0.0
        return History(seen, (*self.utility, utility))

    def to_memory(self) -> Memory:
        """Named arrays for the store; empty before the first round."""
        if not self.utility:
            return {}
        names = sorted(self.seen)
        return {
            _NAMES: np.frombuffer("\n".join(names).encode(), np.uint8),
            _SEEN: np.array([_row(self.seen[name]) for name in names]),
            _UTILITY: np.array(self.utility),
        }


_NOBODY = Seen()
_row = attrgetter(*(one.name for one in fields(Seen)))


def split_history(memory: Mapping[str, Array]) -> tuple[Memory, History]:
    """The algorithm's part of a stored memory, and the history."""
    own = {key: array for key, array in memory.items() if not key.startswith(_PREFIX)}
    if _SEEN not in memory:
        return own, History()
    text = memory[_NAMES].tobytes().decode()
    names = text.split("\n") if text else []
    rows_WF = memory[_SEEN].tolist()
    seen = {name: Seen(*row) for name, row in zip(names, rows_WF, strict=True)}
    return own, History(seen, tuple(memory[_UTILITY].tolist()))


def _expected_s(before: Seen, took_s: float) -> float:
    """What is expected of a worker that took so long now."""
    if not (before.expected_s > 0 and took_s > 0):
        return took_s or before.expected_s
    return before.expected_s + _NEWEST * (took_s - before.expected_s)


def _metric(header: UpdateHeader, name: str) -> float:
    """A loss that a worker reports; NaN for what is none."""
    value = header.metrics.get(name, math.nan)
    return value if 0 <= value < math.inf else math.nan
