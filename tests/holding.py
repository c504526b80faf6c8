"""Keeps the threads of a service busy, so that predictions wait where a test wants them to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fedfleet_inference_api.predictor import DECODERS
from fedfleet_inference_api.service import InferenceService


@contextmanager
def decoders_held(service: InferenceService) -> Iterator[None]:
    """Keep both decoders busy, so that predictions wait for one."""
    release, entered = threading.Event(), threading.Semaphore(0)

    def busy() -> None:
        entered.release()
        release.wait()

    def hold() -> None:
        asyncio.run(service.predictor.decode(busy))

    threads = [threading.Thread(target=hold) for _ in range(DECODERS)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            entered.acquire()
        yield
    finally:
        release.set()
        for thread in threads:
            thread.join()


@contextmanager
def model_held(service: InferenceService) -> Iterator[None]:
    """Keep the model's thread busy, so that predictions wait for it."""
    release, entered = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        release.wait()

    service.predictor._model_thread.submit(hold)
    entered.wait()
    try:
        yield
    finally:
        release.set()
