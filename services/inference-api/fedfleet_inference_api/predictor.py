"""Runs the model on one thread and the image decoders on a few, off the event loop and bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from fedfleet.data.images import Pixels
from fedfleet.errors import Unavailable
from fedfleet_inference_api.servable import Servable

T = TypeVar("T")

DECODERS = 2  # each may hold an image of 24 megapixels


@dataclass(frozen=True, eq=False)
class Forwarded:
    """What the model said of one image.

    Args:
        probabilities: float64 of shape (K,), K classes.
        queue_s: time until the model's thread took it up.
        forward_s: time in the model.
    """

    probabilities: npt.NDArray[np.float64]
    queue_s: float
    forward_s: float


class Predictor:
    """One thread for the model: torch parallelises inside it, and requests queue before it.

    Args:
        threads: processor threads inside torch, 0 leaves torch's own number.
        max_pending: predictions that may wait or run; the next one is refused.
    """

    def __init__(self, threads: int, max_pending: int) -> None:
        self._max_pending = max_pending
        self._pending = 0  # changed on the event loop only
        self._model_thread = ThreadPoolExecutor(
            1, "model", initializer=_set_threads, initargs=(threads,)
        )
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")

    @property
    def pending(self) -> int:
        return self._pending

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold one of the places in the queue.

        Raises:
            Unavailable: no place is free.
        """
        self.check_room()
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    def check_room(self) -> None:
        """Raise Unavailable where no place is free."""
        if self._pending >= self._max_pending:
            raise Unavailable(
                f"{self._pending} predictions are waiting or running already: try again in a second"
            )

    async def decode(self, work: Callable[[], T]) -> T:
        """Run something that parses a caller's bytes. Dropped if the caller left the queue."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def forward(self, servable: Servable, image: Pixels) -> Forwarded:
        """Answer one image of shape (C, H, W)."""
        asked_s = time.perf_counter()

        def run() -> Forwarded:
            started_s = time.perf_counter()
            probabilities_K = servable.probabilities(image[None])[0].numpy()
            ended_s = time.perf_counter()
            return Forwarded(probabilities_K, started_s - asked_s, ended_s - started_s)

        return await asyncio.get_running_loop().run_in_executor(self._model_thread, run)

    def warm_up(self, servable: Servable) -> None:
        """Let the model's own thread answer once; blocks, so call it from another thread."""
        self._model_thread.submit(servable.warm_up).result()

    def close(self) -> None:
        """Wait for what runs, drop what waits."""
        self._decoders.shutdown(cancel_futures=True)
        self._model_thread.shutdown(cancel_futures=True)


def _set_threads(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)
