"""Keeps one camera running: starts its process, listens to it, ends it, starts it again."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.networks import CameraNetworks
from fedfleet_inference_api.cameras.process import MOST_WORDS, CameraProcess, WordsInvalid
from fedfleet_inference_api.cameras.ring import Ring
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState, Frame
from fedfleet_inference_api.cameras.spec import Told
from fedfleet_inference_api.cameras.status import Status
from fedfleet_inference_api.cameras.watchdog import Watchdog

logger = logging.getLogger(__name__)

KILL_S = 3.0
# A process that was killed is looked for so often, should its pipe not say that it has gone.
KILLED_S = 0.2
# A process that has said its last word is gone in no time.
GONE_S = 0.02
# No process of ours leaves out so many; another could use up all numbers.
MOST_FRAMES_AT_ONCE = 100_000
# A frame's own time is that of the word that tells of it, but for this.
MOST_OFF_S = 60.0


class Keeper:
    """One camera. ``step``, ``end`` and ``close`` belong to the supervisor's thread.

    Args:
        is_allowed: whether it may be started at all; else it stays as it is, and says why.
        on_state: told of each change of state or code.
        on_frame: told that there is a frame.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        camera: Camera,
        networks: CameraNetworks,
        *,
        slow_retry_s: float,
        memory_mb: int,
        on_state: Callable[[str, Status], None],
        on_frame: Callable[[], None],
        is_allowed: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.camera = camera
        self.sequence = 0
        self.is_leaving = False
        self._networks = networks
        self._memory_mb = memory_mb
        self._on_state = on_state
        self._on_frame = on_frame
        self._is_allowed = is_allowed
        self._clock = clock
        self._watchdog = Watchdog(
            silence_s=camera.silence_s,
            slow_retry_s=slow_retry_s,
            chance=random.random,
        )
        self._process: CameraProcess | None = None
        self._told = Told()  # the last of a frame
        self._code = CameraCode.NONE  # what the process gave as its reason
        self._kill_at_s = math.inf
        self._starts = 0
        self._told_at_s = 0.0  # of the newest frame, since the epoch
        self._words_left = 0.0  # that the process may say
        self._left_at_s = 0.0
        self._has_ended = False  # by its own word
        self._dropped = 0  # by earlier processes
        # The newest frame may be one of a process that has ended.
        self._rings = threading.Lock()
        self._ring: Ring | None = None
        self._since_s = time.time()
        self._status = self._now()

    @property
    def status(self) -> Status:
        return self._status

    @property
    def pid(self) -> int:
        """Of the camera's process, 0 while it has none."""
        return self._process.pid if self._process is not None else 0

    @property
    def process(self) -> CameraProcess | None:
        """What to listen to, None while there is nothing."""
        return self._process

    @property
    def due_s(self) -> float:
        """When ``step`` has something to do, whatever is heard."""
        if self._process is None and self._watchdog.state is CameraState.STOPPED:
            return math.inf if self.is_leaving or self._starts else 0.0
        if self._process is not None and self._process.fileno() < 0:
            return self._clock() + GONE_S
        return min(self._watchdog.due_s, self._kill_at_s)

    def newest(self, after: int) -> Frame | None:
        with self._rings:
            # What was not told of is not believed: with a high number it would hide all to come.
            told = self.sequence
            picture = self._ring.newest(after, told) if self._ring is not None else None
        if picture is None or not abs(picture.at_s - self._told_at_s) <= MOST_OFF_S:
            return None
        return Frame(
            camera=self.camera.name,
            sequence=picture.sequence,
            at_s=picture.at_s,
            media_s=picture.media_s,
            pixels=picture.pixels,
        )

    def step(self) -> None:
        """Hear what the process tells, and do what is due."""
        now_s = self._clock()
        if self._process is None:
            is_first = not self._starts and not self.is_leaving
            if is_first or self._watchdog.is_retry_due(now_s):
                self._start(now_s)
        else:
            self._hear(self._process, now_s)
            if self._process.has_ended:
                self._settle(self._process, now_s)
            elif now_s >= self._kill_at_s:
                self._process.kill()
                self._kill_at_s = now_s + KILLED_S
            elif self._watchdog.is_overdue(now_s):
                self._terminate(self._process, now_s)
        self._tell()

    def end(self) -> None:
        """Begin to end the process; no other is started."""
        self.is_leaving = True
        if self._process is None:
            self._watchdog.stop()
        elif self._kill_at_s == math.inf:
            self._terminate(self._process, self._clock())
        self._tell()

    @property
    def is_gone(self) -> bool:
        return self.is_leaving and self._process is None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Give up the last frame too."""
        with self._rings:
            if self._ring is not None:
                self._ring.close()
                self._ring = None

    def _start(self, now_s: float) -> None:
        self._starts += 1
        if not self._is_allowed:
            self._watchdog.stop(CameraCode.NOT_ALLOWED)
            return
        self._code = CameraCode.NONE
        self._words_left, self._left_at_s, self._has_ended = MOST_WORDS, now_s, False
        try:
            self._process = CameraProcess(
                self.camera, self._networks, sequence=self.sequence, memory_mb=self._memory_mb
            )
        except OSError:
            logger.warning("camera_process_not_started", extra={"camera": self.camera.name})
            self._watchdog.fail(CameraCode.DIED, now_s)
            return
        self._watchdog.connect(now_s)

    def _hear(self, process: CameraProcess, now_s: float) -> None:
        try:
            words = process.words() if process.fileno() >= 0 else []
            self._check(words, now_s)
        except WordsInvalid:
            logger.warning("camera_process_speaks_nonsense", extra={"camera": self.camera.name})
            self._code = CameraCode.FAILED
            process.distrust()
            self._kill_at_s = now_s + KILLED_S
            return
        for told in words:
            if told.sequence > self.sequence:
                self._take(process, told)
                self._watchdog.stream(now_s)
            elif not told.sequence:
                self._code = told.code
                if told.fault:
                    extra = {"camera": self.camera.name, "fault": told.fault}
                    logger.warning("camera_process_failed", extra=extra)

    def _check(self, words: Sequence[Told], now_s: float) -> None:
        """Refuse what only a process says that somebody has taken over.

        Raises:
            WordsInvalid: too many words, frames or ends, or words behind an end.
        """
        refilled = self._words_left + 2 * self.camera.fps * (now_s - self._left_at_s)
        self._words_left = min(MOST_WORDS, refilled) - len(words)
        self._left_at_s = now_s
        for told in words:
            if self._has_ended or told.sequence > self.sequence + MOST_FRAMES_AT_ONCE:
                raise WordsInvalid
            self._has_ended = not told.sequence
        if self._words_left < 0:
            raise WordsInvalid

    def _take(self, process: CameraProcess, told: Told) -> None:
        self._told = told
        self._told_at_s = time.time()
        self.sequence = told.sequence
        if self._ring is not process.ring:
            self.close()
            with self._rings:
                self._ring = process.ring
        self._on_frame()

    def _terminate(self, process: CameraProcess, now_s: float) -> None:
        process.terminate()
        self._kill_at_s = now_s + KILL_S

    def _settle(self, process: CameraProcess, now_s: float) -> None:
        code = self._code
        if self._watchdog.state is CameraState.STALLED:
            code = self._watchdog.code
        elif code is CameraCode.NONE and not self.is_leaving:
            code = CameraCode.DIED
            extra = {"camera": self.camera.name, "exit_status": process.exit_status}
            logger.warning("camera_process_died", extra=extra)
        process.close(with_ring=process.ring is not self._ring)
        self._process = None
        self._kill_at_s = math.inf
        self._dropped += self._told.dropped
        self._told = replace(self._told, dropped=0)  # the next process counts from 0
        if self.is_leaving:
            self._watchdog.stop()
        elif code is CameraCode.ENDED and self.camera.place.is_file:
            self._watchdog.stop(code)
        else:
            self._watchdog.fail(code, now_s)

    def _tell(self) -> None:
        before = self._status
        is_new = (self._watchdog.state, self._watchdog.code) != (before.state, before.code)
        if is_new:
            self._since_s = time.time()
        self._status = self._now()
        if is_new:
            logger.info(
                "camera_state",
                extra={
                    "camera": self.camera.name,
                    "state": self._status.state.value,
                    "reason": self._status.code.value,
                },
            )
            self._on_state(self.camera.name, self._status)

    def _now(self) -> Status:
        is_streaming = self._watchdog.state is CameraState.STREAMING
        return Status(
            state=self._watchdog.state,
            code=self._watchdog.code,
            since_s=self._since_s,
            frames=self.sequence,
            width=self._told.width,
            height=self._told.height,
            fps=self._told.fps if is_streaming else 0.0,
            codec=self._told.codec,
            restarts=max(0, self._starts - 1),
            dropped=self._dropped + self._told.dropped,
            retry_at_s=self._retry_at_s(),
        )

    def _retry_at_s(self) -> float:
        if self._watchdog.state is not CameraState.BACKOFF:
            return 0.0
        return time.time() + self._watchdog.due_s - self._clock()
