"""What this device can train at each level: measured at the first assignment of a run that asks for
it, kept on disk for the next, and told to the coordinator.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedfleet.errors import (
    AssignmentClosed,
    FedFleetError,
    ProcessDied,
    StoreFull,
    StoreUnavailable,
)
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.store.disk_errors import disk_errors
from fedfleet.training.level_probe import PROBE_S, LevelFigures, ProbeTask, measure_levels
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_worker.device import accelerator, training_memory_bytes

logger = logging.getLogger(__name__)

# Models whose figures are kept.
MODELS = 16
# How often a recipe is tried whose probe ended by something that may not come again.
TRIES = 3
_TRANSIENT = (ProcessDied, StoreFull, StoreUnavailable)
Measure = Callable[[ProbeTask, Callable[[], bool]], Sequence[LevelFigures]]


class Speeds:
    """The figures of one worker.

    ``look`` is called in the training thread, the rest in the event loop.

    Args:
        folder: where they are kept.
        threads: that training may use; 0 leaves torch's own choice.
        limit_bytes: of resident memory, that the device's owner sets; 0 for none. Figures with
            other threads, another limit, or on another device are measured anew.
        changed: called when there is news.
        measure: takes the task, and whether nobody wants it any more.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 0,
        limit_bytes: int = 0,
        changed: Callable[[], object] = lambda: None,
        measure: Measure | None = None,
    ) -> None:
        self._folder = folder
        self._accelerator = accelerator()
        memory_bytes = training_memory_bytes(limit_bytes)
        self._device = [
            *(platform.machine(), os.cpu_count(), self._accelerator, memory_bytes),
            *(threads, limit_bytes),
        ]
        self._changed = changed
        self._measure = measure or _measure_with(threads, limit_bytes)
        self._recipe, self._tries = "", TRIES
        self._is_news = False
        with disk_errors():
            self._told = self._newest()

    @property
    def known(self) -> tuple[pb.LevelSpeed, ...]:
        """Of the model that was trained last; empty before the first probe."""
        return self._told

    def take_news(self) -> tuple[pb.LevelSpeed, ...]:
        """The figures, if they were not told yet."""
        was_news, self._is_news = self._is_news, False
        return self._told if was_news else ()

    def look(self, assignment: pb.Assignment, cancelled: Callable[[], bool]) -> None:
        """See to it that there are figures, where an assignment's run chooses levels by them.

        Without them the assignment is carried out all the same.

        Raises:
            AssignmentClosed: it was cancelled meanwhile.
        """
        if assignment.recipe != self._recipe:
            self._recipe, self._tries = assignment.recipe, TRIES
        if self._tries == 0:
            return
        try:
            self._look(assignment.recipe, cancelled)
        except AssignmentClosed:
            raise
        except FedFleetError as error:
            # What is wrong with the recipe will be told by whoever trains it.
            extra = {"code": error.code, "reason": error.message, "detail": error.detail}
            logger.warning("levels_not_measured", extra=extra)
            self._tries = self._tries - 1 if isinstance(error, _TRANSIENT) else 0
        else:
            self._tries = 0

    def _look(self, text: str, cancelled: Callable[[], bool]) -> None:
        recipe = parse_recipe(text)
        if recipe.levels is None or recipe.levels.assignment != "measured":
            return
        task = ProbeTask(
            card=card_of(recipe),
            training=recipe.training,
            rates=recipe.levels.rates,
            scaler=recipe.levels.scaler,
        )
        path = self._folder / task.digest
        found = self._read(path)
        if not found:
            began_s = time.monotonic()
            with disk_errors():  # the probe needs a little room for its own files
                figures = self._measure(task, cancelled)
            # The device tells the memory of its accelerator, with which others' cannot be compared.
            has_peaks = not self._accelerator or recipe.training.device != "cpu"
            found = _messages(figures, task.digest, has_peaks=has_peaks)
            took_s = round(time.monotonic() - began_s, 3)
            logger.info("levels_measured", extra={"levels": len(found), "took_s": took_s})
        try:
            self._keep(path, found)  # also what was read: it is the newest now
        except FedFleetError as error:
            extra = {"code": error.code, "reason": error.message, "detail": error.detail}
            logger.warning("speeds_not_kept", extra=extra)
        if found != self._told:
            self._told, self._is_news = found, True
            self._changed()

    # The disk

    def _read(self, path: Path) -> tuple[pb.LevelSpeed, ...]:
        """Figures that were kept; none where they are of another device, or damaged."""
        try:
            kept = json.loads(path.read_bytes())
            if kept["device"] == self._device:
                return tuple(pb.LevelSpeed(**one, model_digest=path.name) for one in kept["levels"])
        except (OSError, ValueError, TypeError, LookupError) as error:
            if not isinstance(error, FileNotFoundError):
                logger.info("speeds_unreadable", extra={"reason": repr(error)})
        return ()

    def _keep(self, path: Path, found: Sequence[pb.LevelSpeed]) -> None:
        levels = [
            {
                "level": one.level,
                "samples_per_s": one.samples_per_s,
                "memory_bytes": one.memory_bytes,
            }
            for one in found
        ]
        with disk_errors():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            # Not synced: what is torn is measured again.
            fresh.write_text(json.dumps({"device": self._device, "levels": levels}))
            fresh.replace(path)
            for old in self._files()[MODELS:]:
                old.unlink()

    def _newest(self) -> tuple[pb.LevelSpeed, ...]:
        return next(filter(None, map(self._read, self._files())), ())

    def _files(self) -> list[Path]:
        """The newest first."""
        if not self._folder.is_dir():
            return []
        paths = [path for path in self._folder.iterdir() if not path.suffix]
        return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _measure_with(threads: int, limit_bytes: int) -> Measure:
    def measure(task: ProbeTask, cancelled: Callable[[], bool]) -> Sequence[LevelFigures]:
        return measure_levels(
            task, seconds=PROBE_S, threads=threads, limit_bytes=limit_bytes, cancelled=cancelled
        )

    return measure


def _messages(
    figures: Sequence[LevelFigures], digest: str, *, has_peaks: bool
) -> tuple[pb.LevelSpeed, ...]:
    return tuple(
        pb.LevelSpeed(
            level=one.level,
            samples_per_s=one.samples_per_s,
            memory_bytes=one.memory_bytes if has_peaks else 0,
            model_digest=digest,
        )
        for one in figures
    )
