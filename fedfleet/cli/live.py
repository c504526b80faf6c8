"""What ``fedfleet up`` shows while a run goes on: a bar on a terminal, else a line per round."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedfleet.cli.output import bars, number, plain
from fedfleet.cli.quality import told_json
from fedfleet.cli.workers import worker_state
from fedfleet.v1 import control_service_pb2 as pb

# A bigger fleet is counted instead of listed.
MOST_WORKERS = 24


class RunView:
    """Shows one run; use as a context manager."""

    def __init__(
        self, out: Console, rounds: int, workers: int, *, of_detector: bool = False
    ) -> None:
        self._out = out
        self._of_detector = of_detector
        self._rounds = rounds
        self._expected = workers
        self._workers: Sequence[pb.Worker] = ()
        self._bar = Progress(
            TextColumn("round"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[result]}"),
            TimeElapsedColumn(),
            console=out,
        )
        self._task = self._bar.add_task("", total=rounds, result="waiting for workers")
        self._live = (
            Live(self._picture(), console=out, auto_refresh=False) if out.is_terminal else None
        )

    def event(self, event: pb.RunEvent) -> None:
        """Take note of what happened."""
        if event.kind == "cohort_selected" and event.round == 1:
            self._bar.update(self._task, result="training")
        if event.kind == "round_committed":
            self._committed(event)
        if event.kind == "version_judged":
            self._out.print(verdict(json.loads(event.fields_json)))
        self._refresh()

    def workers(self, workers: Sequence[pb.Worker]) -> None:
        """Take note of what the workers do."""
        self._workers = workers
        self._refresh()

    def _committed(self, event: pb.RunEvent) -> None:
        metrics = json.loads(event.fields_json).get("metrics", {})
        evaluation = metrics.get("evaluation") or {}
        words = []
        if evaluation:
            words.append(told_json(evaluation, of_detector=self._of_detector))
        else:
            words.append(f"train loss {number(metrics.get('train', {}).get('train_loss'))}")
        result = "  ".join(words)
        self._bar.update(self._task, completed=event.round, result=result)
        if self._live is None:
            took = f"{metrics.get('duration_s', 0.0):.2f} s"
            self._out.print(f"round {event.round}/{self._rounds}  {result}  {took}")
            self._out.file.flush()

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Group:
        connected = sum(worker.connected for worker in self._workers)
        line = f"{connected} of {self._expected} workers connected"
        if len(self._workers) > MOST_WORKERS:
            busy = sum(bool(worker.assignment_id) for worker in self._workers if worker.connected)
            return Group(self._bar, f"{line}, {busy} busy")
        grid = Table.grid(padding=(0, 2))
        for worker in self._workers:
            ratio = worker.progress_ratio if worker.assignment_id and worker.connected else 0.0
            full = bars([1.0], most=1.0, encoding=self._out.encoding)
            grid.add_row(
                plain(worker.worker_id),
                worker_state(worker),
                (full * round(20 * ratio)).ljust(20),
                f"{worker.updates} updates",
            )
        return Group(self._bar, line, grid)

    def __enter__(self) -> RunView:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._workers = ()
            self._live.stop()


def verdict(fields: Mapping[str, Any]) -> str:
    """What the recipe's gates came to, in a line. Any: they are JSON."""
    title = f"version {fields['version']}"
    if fields["promoted"]:
        return plain(f"{title} is {fields['alias']} now")
    return plain(f"{title} is not {fields['alias']}: {fields['reason']}")
