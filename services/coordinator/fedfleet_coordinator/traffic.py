"""Payload bytes by worker, direction and codec."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from fedfleet.codecs.chain import Chain
from fedfleet_coordinator.metrics import CoordinatorMetrics


@dataclass
class Moved:
    """Payload bytes as seen from a worker; what was sent again is counted again."""

    up: int = 0
    down: int = 0


class Traffic:
    """Counts for three readers: the metrics, the round's record, and the list of workers.

    Attributes:
        by_worker: since this process started.
    """

    def __init__(self, metrics: CoordinatorMetrics) -> None:
        self._metrics = metrics
        self._round: defaultdict[str, Moved] = defaultdict(Moved)
        self.by_worker: defaultdict[str, Moved] = defaultdict(Moved)

    def count_up(self, worker_id: str, chain: Chain, size_bytes: int) -> None:
        """Count a chunk that came from a worker."""
        self._metrics.bytes.labels("up", _names(chain)).inc(size_bytes)
        self._round[worker_id].up += size_bytes
        self.by_worker[worker_id].up += size_bytes

    def count_down(self, worker_id: str, chain: Chain, size_bytes: int) -> None:
        """Count a chunk that was sent; an empty id is of one who is no worker."""
        self._metrics.bytes.labels("down", _names(chain)).inc(size_bytes)
        if worker_id:
            self._round[worker_id].down += size_bytes
            self.by_worker[worker_id].down += size_bytes

    def take_round(self) -> dict[str, Moved]:
        """What was moved since the last call, by worker."""
        moved = dict(sorted(self._round.items()))
        self._round.clear()
        return moved


def _names(chain: Chain) -> str:
    """A chain without its parameters: few enough to be a label."""
    return "|".join(step.name for step in chain.steps)
