"""The parts of one prediction's time."""

from __future__ import annotations

import time

from fedfleet_inference_api.answers import Latency
from fedfleet_inference_api.metrics import Metrics, Stage


class Stopwatch:
    """Runs from its making on. Times are in seconds."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._started_s = self._lap_s = time.perf_counter()
        self._parts: dict[Stage, float] = {}

    def lap(self, stage: Stage) -> None:
        """Say that what happened since the last lap was this."""
        now_s = time.perf_counter()
        self.add(stage, now_s - self._lap_s)
        self._lap_s = now_s

    def add(self, stage: Stage, seconds: float) -> None:
        """Take a part that was measured elsewhere; of several images the longest counts."""
        self._parts[stage] = max(seconds, self._parts.get(stage, 0.0))
        self._metrics.stage_s.labels(stage).observe(seconds)

    def latency(self) -> Latency:
        parts = {stage: round(1000 * seconds, 3) for stage, seconds in self._parts.items()}
        total = round(1000 * (time.perf_counter() - self._started_s), 3)
        return Latency(**parts, total=total)
