from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedfleet_worker.priority import stand_back


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
@pytest.mark.parametrize("nice", [0, 1])
def test_training_thread_and_its_own_stand_back_and_the_loop_does_not(nice: int) -> None:
    def of_this_thread() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def of_a_thread_of_its_own() -> int:
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(of_this_thread()))
        thread.start()
        thread.join()
        return seen[0]

    before = of_this_thread()
    with ThreadPoolExecutor(1, initializer=stand_back, initargs=(nice,)) as threads:
        own = threads.submit(of_this_thread).result()
        child = threads.submit(of_a_thread_of_its_own).result()

    assert own == child == min(19, before + nice)
    assert of_this_thread() == before
