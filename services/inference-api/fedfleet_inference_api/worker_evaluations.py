"""What workers measured of a run's versions together: beside the records, which are signed before.

For recipes whose coordinator holds no test data. Read from the run's journal, each entry once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfleet.store.protocols import Entry, Journal
from fedfleet.types import Evaluation

RUNS = 16  # that are remembered, those asked for last
_KIND = "evaluation_reported"
_COUNTS = ("samples", "correct", "loss_sum")


@dataclass
class _Read:
    """A run as far as it was read.

    Attributes:
        found: by round and worker its counts.
    """

    after_id: int = 0
    found: dict[int, dict[str, tuple[float, ...]]] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        """Note an entry."""
        self.after_id = entry.event_id
        if entry.kind == _KIND:
            worker_id = entry.fields["assignment_id"].rsplit("/", 1)[1]
            evaluation = Evaluation.from_json(entry.fields["evaluation"])
            counts = tuple(float(getattr(evaluation, name)) for name in _COUNTS)
            self.found.setdefault(entry.round, {})[worker_id] = counts


class WorkerEvaluations:
    """Answers for the runs of a store; safe from several threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, _Read] = OrderedDict()

    def by_round(self, run_id: str) -> dict[int, Mapping[str, Any]]:
        """The counts of each round's version, added up over the workers.

        As in ``Evaluation.to_json``: samples, correct, loss_sum.
        """
        with self._lock:
            read = self._runs.setdefault(run_id, _Read())
            self._runs.move_to_end(run_id)
            if len(self._runs) > RUNS:
                self._runs.popitem(last=False)
            for entry in self._journal.entries(run_id, after_id=read.after_id):
                read.take(entry)
            return {round: _added(by_worker.values()) for round, by_worker in read.found.items()}


def _added(counts: Iterable[tuple[float, ...]]) -> Mapping[str, Any]:
    return dict(zip(_COUNTS, map(sum, zip(*counts, strict=True)), strict=True))
