"""The engine of several processes on one machine, one resident model each.

Arrays go through files in memory, everything else as lines of JSON: nothing is pickled, and the
data set is never sent. What a process does is in ``process.py``.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedfleet.codecs.chain import Chain
from fedfleet.errors import ProcessDied, RecipeInvalid, error_for_code
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.array_files import shared_folder
from fedfleet.sim.jobs import Failed, Job, Result
from fedfleet.sim.parcels import JobFiles, Parcel, read_result
from fedfleet.wire.spare import spare_small

# Most jobs that are under way or whose results wait behind a slow one: in number, and in bytes of
# their values.
AHEAD = 128
AHEAD_BYTES = 1 << 30
# Deaths one after the other, with no job done in between, after which none is started again.
DEATHS = 3
_PIPE_BYTES = 1 << 16


@dataclass(frozen=True)
class _Wanted:
    """A job without a result yet.

    Args:
        memory: name of the file with its worker's memory, which whoever reads it deletes.
    """

    assignment_id: str
    memory: str


class Processes:
    """Starts the processes at once, so that they load while their user does.

    Args:
        processes: how many.
        device: overrides the recipe's.

    Raises:
        RecipeInvalid: the recipe is not what its text says, which is all that is sent.
    """

    def __init__(
        self, recipe: Recipe, processes: int, *, data_dir: Path | None, device: str | None = None
    ) -> None:
        check_text(recipe)
        self._uplink = recipe.wire.uplink_chain
        self._shared = shared_folder()
        self._folder = Path(self._shared.name)
        self._files = JobFiles(self._folder)
        self._order: Parcel = {
            "recipe": recipe.source,
            "data_dir": str(data_dir) if data_dir else "",
            "device": device,
            "folder": str(self._folder),
        }
        self._selector = selectors.DefaultSelector()
        self._started = 0
        self._deaths = 0
        self._published = 0
        self._wanted: dict[int, _Wanted] = {}
        self._done: dict[int, Result] = {}
        self._chains: dict[
            str, Chain
        ] = {}  # of encoded sections by level, known with its first job
        self._children = [self._start() for _ in range(processes)]

    @property
    def at_work(self) -> dict[int, str]:
        """The system's ids of processes that have taken a job, and the job's assignment."""
        return {
            child.pid: wanted.assignment_id
            for child in self._children
            for number in self._taken(child)
            if (wanted := self._wanted.get(number)) is not None
        }

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Result]:
        coming = iter(jobs)
        order: deque[int] = deque()
        try:
            while True:
                self._fill(order, coming)
                if not order:
                    return
                while order[0] not in self._done:
                    self._receive()
                yield self._done.pop(order.popleft())
        finally:
            self._withdraw(order)

    def close(self) -> None:
        """End the processes, which hold nothing of value, and delete what was shared."""
        for child in self._children:
            child.end()
        self._selector.close()
        self._shared.cleanup()

    # Jobs

    def _fill(self, order: deque[int], coming: Iterator[Job]) -> None:
        """Publish as many jobs as there is room for."""
        numbers: list[int] = []
        room = AHEAD
        while len(order) < room and (job := next(coming, None)) is not None:
            size = job.base.trainable.nbytes + job.base.statistics.nbytes
            room = max(2 * len(self._children), min(AHEAD, AHEAD_BYTES // max(size, 1)))
            numbers.append(self._publish(job))
            order.append(numbers[-1])
        if numbers:
            for child in self._children:
                child.tell(numbers)

    def _publish(self, job: Job) -> int:
        if job.level not in self._chains:
            self._chains[job.level] = spare_small(self._uplink, job.base.schema)
        self._published += 1
        number = self._published
        parcel = self._files.write(job)
        self._wanted[number] = _Wanted(job.assignment_id, parcel["memory"])
        (self._folder / f"job-{number}").write_text(json.dumps(parcel))
        return number

    def _withdraw(self, order: Iterable[int]) -> None:
        """Take back what is not wanted any more, and what only this batch shared."""
        for number in order:
            self._done.pop(number, None)
            if number in self._wanted:
                # First, so that no process takes it once the signs of those that had are gone.
                (self._folder / f"job-{number}").unlink(missing_ok=True)
                self._settle(number)
        self._files.forget()

    def _settle(self, number: int) -> str:
        """A job that none can take any more is over; returns its assignment's id.

        Its sign goes before its memory: a process that misses the memory looks for the sign.
        """
        wanted = self._wanted.pop(number)
        for child in self._children:
            (self._folder / f"taken-{number}.{child.number}").unlink(missing_ok=True)
        if wanted.memory:
            (self._folder / wanted.memory).unlink(missing_ok=True)
        return wanted.assignment_id

    # Processes

    def _start(self) -> _Child:
        self._started += 1
        child = _Child(self._started, {**self._order, "process": self._started})
        self._selector.register(child.answers, selectors.EVENT_READ, child)
        return child

    def _taken(self, child: _Child) -> list[int]:
        """Numbers of the jobs that a process has taken."""
        paths = self._folder.glob(f"taken-*.{child.number}")
        return [int(path.stem.rpartition("-")[2]) for path in paths]

    def _receive(self) -> None:
        """Wait for something that a process says, or for the end of one."""
        for key, _ in self._selector.select():
            child: _Child = key.data
            lines = child.read()
            if lines is None:
                self._replace(child)
                continue
            for line in lines:
                self._take(json.loads(line))

    def _take(self, answer: Parcel) -> None:
        if "number" not in answer:  # it could not even begin
            raise error_for_code(answer["code"], answer["reason"])
        self._deaths = 0
        number = answer["number"]
        path = self._folder / f"result-{number}"
        if number not in self._wanted:
            path.unlink(missing_ok=True)
            return
        self._done[number] = read_result(answer, self._settle(number), path, self._chains)

    def _replace(self, child: _Child) -> None:
        """Fail what a dead process had taken, and start another in its place."""
        self._selector.unregister(child.answers)
        status = child.end()
        self._deaths += 1
        reason = f"a process of the simulator ended with status {status}"
        for number in self._taken(child):
            (self._folder / f"result-{number}").unlink(missing_ok=True)
            if number in self._wanted:
                self._done[number] = Failed(
                    assignment_id=self._settle(number), code=ProcessDied.code, reason=reason
                )
        if self._deaths >= DEATHS:
            raise ProcessDied(f"{reason}, as {DEATHS - 1} before it; the lines above say why")
        place = self._children.index(child)
        self._children[place] = self._start()
        self._children[place].tell(list(self._wanted))


class _Child:
    """A process and the two pipes to it.

    Args:
        number: never used again for another.
    """

    def __init__(self, number: int, order: Parcel) -> None:
        self.number = number
        command = (sys.executable, "-m", "fedfleet.sim.process")
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._part = b""
        self._say(json.dumps(order))

    @property
    def pid(self) -> int:
        """The system's id of it."""
        return self._process.pid

    @property
    def answers(self) -> IO[bytes]:
        """Where it answers."""
        assert self._process.stdout is not None
        return self._process.stdout

    def tell(self, numbers: Sequence[int]) -> None:
        """Tell it of jobs."""
        self._say(json.dumps(list(numbers)))

    def read(self) -> list[bytes] | None:
        """Lines that it said, once there is something to read; None after its end."""
        read = os.read(self.answers.fileno(), _PIPE_BYTES)
        if not read:
            return None
        *lines, self._part = (self._part + read).split(b"\n")
        return lines

    def end(self) -> int:
        """End it if it has not; returns its exit status."""
        self._process.terminate()
        self._process.communicate()
        return self._process.returncode

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its end is seen where its answers are read
            self._process.stdin.write(line.encode() + b"\n")


def check_text(recipe: Recipe) -> None:
    """Refuse a recipe that was changed after it was parsed: other processes get its text.

    Raises:
        RecipeInvalid: parse a text that says what is meant.
    """
    if parse_recipe(recipe.source) != recipe:
        raise RecipeInvalid(
            "the recipe was changed after its text was read, and other processes are sent the "
            "text: parse one that says what is meant"
        )
