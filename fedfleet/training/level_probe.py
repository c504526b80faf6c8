"""Measures how fast this device trains each width of a model, and in how much memory.

The training happens in a process of its own (``level_probe_child``), from the narrowest level to
the widest: its peak of memory is the levels' and not its caller's, and where a level takes all the
memory there is, only that process ends. One for all levels, since torch takes seconds to import on
a small device.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

from fedfleet.errors import AssignmentClosed, OutOfMemory, ProcessDied, TimedOut, error_for_code
from fedfleet.models.card import ModelCard
from fedfleet.training.config import TrainingConfig

# For the levels together, the start of the process aside.
PROBE_S = 5.0
# How much longer it may take to import torch on a small device, and to end a step that was begun.
_START_S = 120.0
_LOOK_S = 0.1
_TAIL = 12
_CHILD = "fedfleet.training.level_probe_child"


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelFigures:
    """One width of a model on this device.

    Args:
        rate: the width as a share of the whole model.
        parameters: trainable ones.
        samples_per_s: training examples per second; 0 where memory ran out.
        memory_bytes: peak of the process, or of what torch held of a CUDA device's memory.
    """

    level: str
    rate: float
    parameters: int
    samples_per_s: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class ProbeTask:
    """What is measured.

    Args:
        rates: width of each level, the first 1, falling.
        scaler: as in the recipe.
    """

    card: ModelCard
    training: TrainingConfig
    rates: Sequence[float]
    scaler: bool = True

    @property
    def digest(self) -> str:
        """SHA-256 in hex of all that the figures depend on, the device aside."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The task as plain JSON values."""
        return {
            "card": self.card.to_json(),
            "training": asdict(self.training),
            "rates": list(self.rates),
            "scaler": self.scaler,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ProbeTask:
        """What ``to_json`` wrote."""
        return cls(
            card=ModelCard.from_json(value["card"]),
            training=TrainingConfig(**value["training"]),
            rates=tuple(value["rates"]),
            scaler=value["scaler"],
        )


def measure_levels(
    task: ProbeTask,
    *,
    seconds: float = PROBE_S,
    threads: int = 0,
    limit_bytes: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[LevelFigures, ...]:
    """Train each level for a moment; returns figures from the widest level that was reached down.

    What would take longer than there is time for is left out.

    Args:
        seconds: for the levels together; the narrowest is measured whatever it takes.
        threads: most that torch may use; 0 leaves its own choice.
        limit_bytes: of resident memory, above which a level does not fit; 0 for none.
        cancelled: asked ten times a second; True ends it.

    Raises:
        OutOfMemory: not even the narrowest level fits.
        TimedOut: not even the narrowest was measured in the time that there is.
        AssignmentClosed: it was cancelled.
        RecipeInvalid, UnknownModel: the model cannot be built here.
        ProcessDied: the process ended by something else.
    """
    order = {
        **task.to_json(),
        "seconds": seconds,
        "threads": threads,
        "limit_bytes": limit_bytes,
    }
    with ExitStack() as files:
        given, said, failed = (files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3))
        given.write(json.dumps(order))
        given.seek(0)
        status = _run((given, said, failed), seconds + _START_S, cancelled)
        lines = [json.loads(line) for line in _lines(said) if line.startswith("{")]
        last_words = "\n".join(_lines(failed)[-_TAIL:])
    for line in lines:
        if "code" in line:
            raise error_for_code(line["code"], line["message"])
    found = [LevelFigures(**line) for line in lines]
    if status == _KILLED:
        found += _exhausted(task, found)
    elif status:
        died = f"the probe of this device ended with status {status}"
        raise ProcessDied(died, detail=last_words)
    if status is None and not found:
        raise TimedOut(
            f"the narrowest level of the model was not measured in {seconds + _START_S:g} s: "
            "this device is too slow for it"
        )
    if not any(one.samples_per_s for one in found):
        raise OutOfMemory("this device's memory is too small for the narrowest level of the model")
    return tuple(reversed(found))


def _lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().splitlines()


# What the kernel ends a process with that takes the last of the memory.
_KILLED = -9


def _exhausted(task: ProbeTask, found: Sequence[LevelFigures]) -> list[LevelFigures]:
    """The level that the kernel ended the process in, if it was not done with all of them."""
    if len(found) == len(task.rates):
        return []
    place = len(task.rates) - 1 - len(found)
    level, rate = chr(ord("a") + place), task.rates[place]
    return [LevelFigures(level=level, rate=rate, parameters=0, samples_per_s=0.0, memory_bytes=0)]


def _run(
    files: tuple[IO[str], IO[str], IO[str]], limit_s: float, cancelled: Callable[[], bool]
) -> int | None:
    """Run the child on these standard files; its status, or None if its time was over."""
    # What lies in the working folder is not what shall be imported; older Pythons cannot say so.
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    command = [sys.executable, *safe, "-m", _CHILD]
    given, said, failed = files
    with subprocess.Popen(command, stdin=given, stdout=said, stderr=failed) as child:  # noqa: S603
        try:
            for _ in range(int(limit_s / _LOOK_S)):
                with suppress(subprocess.TimeoutExpired):
                    return child.wait(_LOOK_S)
                if cancelled():
                    raise AssignmentClosed("the probe of this device was cancelled")
        finally:
            child.kill()
    return None
