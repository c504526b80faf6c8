from __future__ import annotations

import os
import threading
import time

from fedfleet_inference_api.cameras.sleeper import Sleeper

PATIENCE_S = 10.0


class Pipe:
    """Something to listen to."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def tell(self) -> None:
        os.write(self._write, b"x")

    def close(self) -> None:
        for fd in (self._read, self._write):
            os.close(fd)
        self._read = -1


def slept_s(sleeper: Sleeper, *heard: Pipe, wait_s: float = PATIENCE_S) -> float:
    started_s = time.monotonic()
    sleeper.sleep(heard, wait_s)
    return time.monotonic() - started_s


def test_sleeper_hears_what_is_told_and_only_of_those_it_listens_to():
    sleeper, first, second = Sleeper(), Pipe(), Pipe()
    first.tell()

    assert slept_s(sleeper, first, second) < 1.0
    assert slept_s(sleeper, second, wait_s=0.05) > 0.04
    assert slept_s(sleeper, first) < 1.0
    assert slept_s(sleeper, wait_s=-1.0) < 1.0

    first.close()
    second.close()
    sleeper.close()


def test_sleeper_hears_another_that_got_the_descriptor_of_one_that_is_closed():
    sleeper, first = Sleeper(), Pipe()
    slept_s(sleeper, first, wait_s=0.0)
    fd = first.fileno()
    first.close()
    second = Pipe()
    assert second.fileno() == fd

    second.tell()

    assert slept_s(sleeper, second) < 1.0
    second.close()
    sleeper.close()


def test_sleeper_is_woken_from_any_thread_and_not_after_its_end():
    sleeper = Sleeper()
    thread = threading.Thread(target=sleeper.wake)
    thread.start()

    assert slept_s(sleeper) < 5.0
    thread.join()
    assert slept_s(sleeper, wait_s=0.05) > 0.04, "woken once"
    for _ in range(100_000):  # more than its pipe holds
        sleeper.wake()
    assert slept_s(sleeper) < 1.0

    sleeper.close()
    sleeper.close()
    sleeper.wake()
