"""Carries out the runs of a sweep, each in a process of its own; what is finished is kept."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfleet.cli.sweep_grid import GridRun
from fedfleet.errors import RecordInvalid
from fedfleet.reports.record import FILES, ROUNDS, Record, is_record, read_record

LOOK_S = 0.1
GRACE_S = 10.0
LOG = "log.txt"
# What the command writes last when it ends by an error of ours.
_LAST_WORDS = re.compile(r"fedfleet: ([A-Z_]+): (.*)")


@dataclass(frozen=True)
class Ended:
    """A run that is over. ``record`` is None where it ended before there was one."""

    run: GridRun
    record: Record | None
    code: str
    was_done: bool = False

    @property
    def outcome(self) -> str:
        """How it ended; what its process could not say any more is ``died``."""
        if self.record is None:
            return "failed"
        outcome = self.record.facts.outcome
        return "died" if outcome == "running" else outcome


OnChange = Callable[[Sequence[Ended], Sequence[str]], None]


class Sweep:
    """The runs of a sweep.

    Args:
        folder: each run's record is in a folder below.
        options: of ``fedfleet simulate``.
        depends: what the results depend on beside the recipe (``RunFacts.options``).
        environ: of the processes.
        jobs: how many run at once.
    """

    def __init__(
        self,
        folder: Path,
        *,
        options: Sequence[str],
        depends: Mapping[str, str],
        environ: Mapping[str, str],
        jobs: int,
    ) -> None:
        self._folder = folder
        self._options = options
        self._depends = depends
        self._environ = environ
        self._jobs = jobs
        self._at_work: dict[str, tuple[GridRun, subprocess.Popen[bytes]]] = {}

    def carry_out(self, runs: Sequence[GridRun], on_change: OnChange) -> list[Ended]:
        """Run what is not finished; call from the main thread only (see ``launch``).

        Args:
            on_change: called with what is over and what goes on, ten times a second.

        Returns:
            One item per run, in their order.
        """
        ended = {run.name: done for run in runs if (done := self._finished(run)) is not None}
        waiting = [run for run in runs if run.name not in ended]
        on_change(list(ended.values()), [])
        try:
            while waiting or self._at_work:
                while waiting and len(self._at_work) < self._jobs:
                    run = waiting.pop(0)
                    self._at_work[run.name] = (run, self._start(run))
                for name, (run, process) in list(self._at_work.items()):
                    if process.poll() is not None:
                        del self._at_work[name]
                        ended[name] = self._outcome(run)
                on_change(list(ended.values()), [self._progress(name) for name in self._at_work])
                if self._at_work:
                    time.sleep(LOOK_S)
        finally:
            self._stop()
        return [ended[run.name] for run in runs]

    def _finished(self, run: GridRun) -> Ended | None:
        """The run, where its record says that it completed with this recipe and these options."""
        folder = self._folder / run.name
        if not is_record(folder):
            return None
        try:
            record = read_record(folder)
        except RecordInvalid:
            return None  # it is run again
        if record.facts.outcome != "completed":
            return None
        if record.recipe != run.recipe or record.facts.options != self._depends:
            return None
        return Ended(run, record, "", was_done=True)

    def _start(self, run: GridRun) -> subprocess.Popen[bytes]:
        folder = self._folder / run.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        # Beside the record, which must not be there yet when the run begins.
        recipe = folder / "sweep.toml"
        recipe.write_text(run.recipe, encoding="utf-8")
        command = ["fedfleet.cli.main", "simulate", str(recipe), "--out", str(folder)]
        with (folder / LOG).open("wb") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "fedfleet.cli.launch", str(os.getpid())),
                    *(*command, *self._options),
                ],
                # What lies in the working folder is not what shall be imported.
                env={**self._environ, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _outcome(self, run: GridRun) -> Ended:
        folder = self._folder / run.name
        if is_record(folder):
            record = read_record(folder)
            return Ended(run, record, record.facts.code)
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        words = [match for line in lines if (match := _LAST_WORDS.match(line))]
        return Ended(run, None, words[-1][1] if words else "PROCESS_DIED")

    def _progress(self, name: str) -> str:
        try:
            rounds = (self._folder / name / ROUNDS).read_bytes().count(b"\n")
        except FileNotFoundError:
            return f"{name}: starting"
        return f"{name}: round {rounds}"

    def _stop(self) -> None:
        """End what is still at work, as Ctrl-C does, so that each record says so."""
        for _, process in self._at_work.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        give_up_s = time.monotonic() + GRACE_S
        for _, process in self._at_work.values():
            try:
                process.wait(max(0.0, give_up_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
