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

from fedfleet.errors import AssignmentClosed, FedFleetError
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.store.disk_errors import disk_errors
from fedfleet.training.level_probe import PROBE_S, LevelFigures, ProbeTask, measure_levels
from fedfleet.v1 import federation_service_pb2 as pb

logger = logging.getLogger(__name__)

# Models whose figures are kept.
MODELS = 16
Measure = Callable[[ProbeTask, Callable[[], bool]], Sequence[LevelFigures]]


class Speeds:
    """The figures of one worker.

    ``look`` is called in the training thread, the rest in the event loop.

    Args:
        folder: where they are kept.
        threads: that training may use; 0 leaves torch's own choice. Figures with another number
            are measured anew.
        changed: called when there is news.
        measure: takes the task, and whether nobody wants it any more.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 0,
        changed: Callable[[], object] = lambda: None,
        measure: Measure | None = None,
    ) -> None:
        self._folder = folder
        self._device = [platform.machine(), os.cpu_count(), threads]
        self._changed = changed
        self._measure = measure or _measure_with(threads)
        self._recipe = ""
        self._is_news = False
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
        if assignment.recipe == self._recipe:
            return
        try:
            self._look(assignment.recipe, cancelled)
        except AssignmentClosed:
            raise
        except FedFleetError as error:
            # What is wrong with the recipe will be told by whoever trains it.
            extra = {"code": error.code, "reason": error.message, "detail": error.detail}
            logger.warning("levels_not_measured", extra=extra)
        self._recipe = assignment.recipe

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
        if found:
            with disk_errors():
                os.utime(path, ns=(time.time_ns(),) * 2)  # this is the newest now
        else:
            began_s = time.monotonic()
            found = _messages(self._measure(task, cancelled), task.digest)
            took_s = round(time.monotonic() - began_s, 3)
            logger.info("levels_measured", extra={"levels": len(found), "took_s": took_s})
            self._keep(path, found)
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


def _measure_with(threads: int) -> Measure:
    def measure(task: ProbeTask, cancelled: Callable[[], bool]) -> Sequence[LevelFigures]:
        return measure_levels(task, seconds=PROBE_S, threads=threads, cancelled=cancelled)

    return measure


def _messages(figures: Sequence[LevelFigures], digest: str) -> tuple[pb.LevelSpeed, ...]:
    return tuple(
        pb.LevelSpeed(
            level=one.level,
            samples_per_s=one.samples_per_s,
            memory_bytes=one.memory_bytes,
            model_digest=digest,
        )
        for one in figures
    )
