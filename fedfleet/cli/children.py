"""Starts services as child processes, notices the one that dies, and stops them all.

Each child is its own process group and session, so that Ctrl-C reaches the parent alone, which
stops the children in order; ``launch`` sees to it that none outlives the parent.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fedfleet.errors import FedFleetError, NotInstalled, ProcessDied, TimedOut, error_for_code

LOOK_S = 0.02
TAIL_LINES = 12
# What a service writes last when it ends by an error of ours.
_LAST_WORDS = re.compile(r"fedfleet-[a-z-]+: ([A-Z_]+): (.*)")
# What Python writes last of a service whose extra is not installed.
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
_EXTRAS = {
    "fedfleet_coordinator": "coordinator",
    "fedfleet_worker": "worker",
    "fedfleet_inference_api": "inference",
}


class Child:
    """One process with its log, which is appended to."""

    def __init__(
        self, name: str, module: str, environ: Mapping[str, str], log: Path, stage: int
    ) -> None:
        self.name = name
        self.module = module
        self.log = log
        self.stage = stage
        with log.open("ab") as file:
            self._offset = file.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedfleet.cli.launch", str(os.getpid()), module],
                # What lies in the working folder is not what shall be imported.
                env={**environ, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def event(self, name: str) -> dict[str, Any] | None:
        """The fields of the first log line of an event, if it was written. Any: they are JSON."""
        for line in self.lines():
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            if isinstance(fields, dict) and fields.get("event") == name:
                return fields
        return None

    def lines(self) -> list[str]:
        """What this process has logged."""
        with self.log.open("rb") as file:
            file.seek(self._offset)
            return file.read().decode(errors="replace").splitlines()

    def death(self) -> FedFleetError:
        """Why it ended: the error in its last words, or its status and the end of its log."""
        lines = self.lines()
        for line in reversed(lines):
            match = _LAST_WORDS.match(line)
            if match:
                return error_for_code(match[1], f"{self.name}: {match[2]}")
            missing = _NO_MODULE.match(line)
            if missing and not missing[1].startswith("fedfleet") and self.module in _EXTRAS:
                return NotInstalled.of_extra(f"{self.name}: {missing[1]}", _EXTRAS[self.module])
        return ProcessDied(
            f"{self.name} ended unasked ({_status(self.process.returncode)}); its log: {self.log}",
            detail="\n".join(lines[-TAIL_LINES:]),
        )


class Children:
    """The processes of one fleet; leaving the ``with`` block stops them.

    Start from the main thread only (see ``launch``).

    Args:
        logs: folder for the logs; must exist.
        grace_s: seconds that each stage gets between SIGTERM and SIGKILL.
    """

    def __init__(self, logs: Path, *, grace_s: float = 10.0) -> None:
        self._logs = logs
        self._grace_s = grace_s
        self.all: list[Child] = []

    def start(self, name: str, module: str, environ: Mapping[str, str], *, stage: int) -> Child:
        """Start ``python -m module``; higher stages are stopped first."""
        child = Child(name, module, environ, self._logs / f"{name}.log", stage)
        self.all.append(child)
        return child

    def check(self) -> None:
        """Return while all are alive.

        Raises:
            FedFleetError: one has ended; the text names it, the detail is the end of its log.
        """
        for child in self.all:
            if child.process.poll() is not None:
                raise child.death()

    def wait_for(self, child: Child, event: str, timeout_s: float) -> dict[str, Any]:
        """Wait until a child has logged an event; returns the event's fields.

        Raises:
            TimedOut: it has not, in that time.
            FedFleetError: a child has ended.
        """
        give_up_s = time.monotonic() + timeout_s
        while True:
            fields = child.event(event)
            if fields is not None:
                return fields
            self.check()
            if time.monotonic() > give_up_s:
                raise TimedOut(f"{child.name} did not start in {timeout_s:g} s; log: {child.log}")
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """Ask each stage to end, the highest first, then end what is left."""
        try:
            for stage in sorted({child.stage for child in self.all}, reverse=True):
                self._stop_stage([child for child in self.all if child.stage == stage])
        finally:
            for child in self.all:
                _signal(child, signal.SIGKILL)
            for child in self.all:
                child.process.wait()

    def _stop_stage(self, children: list[Child]) -> None:
        for child in children:
            _signal(child, signal.SIGTERM)
        give_up_s = time.monotonic() + self._grace_s
        for child in children:
            try:
                child.process.wait(max(0.0, give_up_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(child, signal.SIGKILL)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _signal(child: Child, number: int) -> None:
    """Signal a child's whole group, unless the child was reaped already."""
    if child.process.poll() is None:
        os.killpg(child.process.pid, number)


def _status(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"status {code}"
