"""The process in which ``level_probe`` trains: reads a task from stdin, writes a line per level."""

from __future__ import annotations

import gc
import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.data.images import Boxes, Labels
from fedfleet.data.shard import Examples
from fedfleet.errors import FedFleetError, TrainingFailed
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.level_probe import LevelFigures, ProbeTask
from fedfleet.training.local import LocalTrainer, TrainTask
from fedfleet.training.out_of_memory import is_out_of_memory
from fedfleet.training.state import schema_of, state_of
from fedfleet.training.submodels import SubModels
from fedfleet.training.trainers import Trainers
from fedfleet.types import Kind

# After one step to warm up, enough to be timed by.
STEPS, STEPS_S = 3, 0.3
_BATCHES = 4
# Of a recipe that takes all examples at once.
_BATCH = 64
_EPOCHS = 1000


def main() -> int:
    """Measure what stdin asks for; 0 also where a level did not fit."""
    order = json.load(sys.stdin)
    with suppress(OSError):  # where memory ends, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    if order["threads"]:
        torch.set_num_threads(order["threads"])
    try:
        _measure(ProbeTask.from_json(order), order["seconds"], order["limit_bytes"])
    except FedFleetError as error:
        _say({"code": error.code, "message": error.message})
    return 0


def _measure(task: ProbeTask, seconds: float, limit_bytes: int) -> None:
    """Write a line for each level, the narrowest first, as long as there is time and memory."""
    rates = _Rates(tuple(task.rates), task.scaler)
    models = SubModels(task.card, rates.rates)
    trainers = Trainers(task.card, _short(task.training), EvaluationConfig(), rates, kept=1)
    ends_s, step_s, narrower = time.monotonic() + seconds, 0.0, 0.0
    limit = _Limit(limit_bytes)
    for level in reversed(models.levels):
        rate = models.rate(level)
        if narrower:
            # A step takes up to the square of the widths longer.
            step_s *= (rate / narrower) ** 2
            if time.monotonic() + 2 * step_s > ends_s:
                return
        parameters = models.schema(level).elements(Kind.TRAINABLE)
        figures = LevelFigures(
            level=level, rate=rate, parameters=parameters, samples_per_s=0.0, memory_bytes=0
        )
        _forget_peak()
        try:
            trainer, card = trainers.at(level), models.card(level)
            step_s, samples_per_s = _train(trainer, card, ends_s, limit)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _say(asdict(figures))
            return
        measured = replace(figures, samples_per_s=samples_per_s, memory_bytes=_peak_bytes())
        _say(asdict(measured))
        narrower = rate
        gc.collect()


class _Rates:
    """What ``Trainers`` asks of a recipe's levels."""

    def __init__(self, rates: tuple[float, ...], scaler: bool) -> None:
        self.rates = rates
        self.scaler = scaler


def _short(training: TrainingConfig) -> TrainingConfig:
    """The recipe's training, of steps without an end that lead nowhere: made-up labels diverge."""
    return replace(
        training,
        epochs=_EPOCHS,
        lr=1e-9,
        min_lr=None,
        scheduler="constant",
        plateau_factor=None,
        plateau_patience=None,
        validation_fraction=0.0,
        partial_work=True,
    )


def _train(
    trainer: LocalTrainer, card: ModelCard, ends_s: float, limit: _Limit
) -> tuple[float, float]:
    """Seconds of a step, and examples per second, through the loop that workers train in.

    Raises:
        MemoryError: it takes more than the limit.
    """
    batch = trainer.training.batch_size or _BATCH
    module = build(card)
    watch = _StepTimes(trainer.device, ends_s, limit)
    task = TrainTask(
        algorithm=FedAvg(FedAvgOptions()),
        received=state_of(module, schema_of(module)),
        examples=_examples(card, batch * (_BATCHES if trainer.training.batch_size else 1)),
        seed=0,
        split_seed=0,
        round=1,
        rounds=1,
        memory={},
        until=watch.enough,
    )
    del module
    with suppress(TrainingFailed):  # float16 may overflow at first; the steps were timed
        trainer.train(task)
    step_s = watch.step_s
    return step_s, batch / step_s


class _Limit:
    """The most that the process may have resident, which an accelerator's memory is no part of.

    On Linux alone; elsewhere nobody remembers the peak.

    Args:
        limit_bytes: 0 for none.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes

    def check(self) -> None:
        """Raises MemoryError: there was more since the peak was forgotten."""
        peak_bytes = _resident_peak_bytes() if self._limit_bytes else 0
        if peak_bytes > self._limit_bytes:
            raise MemoryError(f"{peak_bytes} bytes are resident, {self._limit_bytes} allowed")


class _StepTimes:
    """Notes when steps end; the first, which picks kernels and fills caches, is not counted."""

    def __init__(self, device: torch.device, ends_s: float, limit: _Limit) -> None:
        self._device = device
        self._ends_s = ends_s
        self._limit = limit
        self._at_s = [time.monotonic()]  # when it began, then the ends

    def enough(self) -> bool:
        """Whether the steps so far can be timed by, or the time is over.

        Raises:
            MemoryError: they took more than the limit.
        """
        self._limit.check()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now_s = time.monotonic()
        self._at_s.append(now_s)
        steps = len(self._at_s) - 2
        wanted = 1 if now_s >= self._ends_s else STEPS
        return steps >= wanted and (wanted == 1 or now_s - self._at_s[1] >= STEPS_S)

    @property
    def step_s(self) -> float:
        """The mean of the steps."""
        warm = self._at_s[1:]
        if len(warm) < 2:
            raise TrainingFailed("the probe of this device could not make a single step")
        return max(1e-9, (warm[-1] - warm[0]) / (len(warm) - 1))


def _examples(card: ModelCard, count: int) -> Examples:
    """Made-up examples of the model's inputs."""
    chance = np.random.default_rng(0)
    most = card.inputs.vocabulary or 256
    pixels = chance.integers(0, most, (count, *card.inputs.shape), dtype=np.uint8)
    labels = chance.integers(0, len(card.classes), count, dtype=np.int64)
    return Examples(pixels, labels, _boxes(labels) if card.kind == "detection" else None)


def _boxes(labels: Labels) -> Boxes:
    """A box in the middle of each picture."""
    boxes = np.full((len(labels), 1, 5), (0, 0.3, 0.3, 0.7, 0.7), np.float32)
    boxes[:, 0, 0] = labels
    return boxes


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """Since it was forgotten; 0 where nobody can say."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    return _resident_peak_bytes()


def _resident_peak_bytes() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def _say(line: dict[str, object]) -> None:
    """Write one line now: the next level may end the process."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
