"""Lets several programs take turns, round by round, so that whatever else the machine does befalls
all of them; each runs in one thread and reports the processor time of its round too, which other
work on the machine hardly lengthens.

A contestant prints a line when it is ready, and does a round for each line that it is given; then
it prints the round's seconds and its processor seconds as a JSON list.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO


@dataclass(frozen=True)
class Rounds:
    """What a contestant reported of each round but the first."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, object]:
        """For a record: medians, and every round."""
        return {
            "round_s": round(statistics.median(self.seconds), 3),
            "round_cpu_s": round(statistics.median(self.cpu_s), 3),
            "rounds_cpu_s": [round(value, 3) for value in self.cpu_s],
        }


def times_faster(rounds: Rounds, other: Rounds) -> float:
    """The other's processor time by this one's: the median over rounds that followed each other."""
    pairs = zip(rounds.cpu_s, other.cpu_s, strict=True)
    return statistics.median(theirs / own for own, theirs in pairs)


def take_turns(
    commands: Mapping[str, Sequence[str]], rounds: int, environ: Mapping[str, str]
) -> dict[str, Rounds]:
    """Run contestants, by name, for so many rounds; the first of each is not reported.

    Raises:
        SystemExit: one ended early.
    """
    found = {name: Rounds() for name in commands}
    with ExitStack() as stack:
        children = {
            name: stack.enter_context(_started(command, environ))
            for name, command in commands.items()
        }
        for child in children.values():
            _read(child)
        for number in range(rounds):
            for name, child in children.items():
                seconds, cpu_s = json.loads(_told(child))
                if number:
                    found[name].seconds.append(seconds)
                    found[name].cpu_s.append(cpu_s)
    return found


class Turn:
    """A contestant's side."""

    def __init__(self) -> None:
        print("ready", flush=True)
        self._await()

    def over(self) -> None:
        """Report the round that ended and wait for the next, if there is one."""
        seconds = [time.monotonic() - self._start_s, time.process_time() - self._start_cpu_s]
        print(json.dumps(seconds), flush=True)
        self._await()

    def _await(self) -> None:
        input()
        self._start_s, self._start_cpu_s = time.monotonic(), time.process_time()


@contextmanager
def _started(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=dict(environ), text=True)
    try:
        yield child
    finally:
        child.terminate()
        child.communicate()


def _told(child: subprocess.Popen[str]) -> str:
    stdin = _pipe(child.stdin)
    stdin.write("go\n")
    stdin.flush()
    return _read(child)


def _read(child: subprocess.Popen[str]) -> str:
    line = _pipe(child.stdout).readline()
    if not line:
        raise SystemExit(f"{child.args!r} ended early")
    return line


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "it was asked for"
    return pipe
