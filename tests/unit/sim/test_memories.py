"""What workers keep is there again, whether it stayed in memory or went to a file."""

from __future__ import annotations

import numpy as np
import pytest

from fedfleet.sim.memories import Memories
from fedfleet.types import Array


def memory(number: int) -> dict[str, Array]:
    return {"own": np.full(100, number, np.float32), "count": np.array(number)}


@pytest.mark.parametrize("bound_bytes", [0, 1000, 1 << 20])
def test_memories_give_back_what_was_put_whatever_the_bound(bound_bytes: int) -> None:
    memories = Memories(bound_bytes)
    for number in [*range(8), 3]:
        memories.put(f"worker-{number}", memory(number + 10))

    for number in range(8):
        found = memories.get(f"worker-{number}")
        assert found["own"].tobytes() == memory(number + 10)["own"].tobytes()
        assert found["count"] == number + 10
    memories.close()


def test_memories_hold_no_more_than_their_bound() -> None:
    memories = Memories(1000)  # two of 408 bytes each

    for number in range(50):
        memories.put(f"worker-{number}", memory(number))

    assert memories.held_bytes <= 1000
    memories.close()


def test_memory_of_a_worker_that_keeps_nothing_any_more_is_empty() -> None:
    memories = Memories(0)
    memories.put("worker-0", memory(1))

    memories.put("worker-0", {})

    assert memories.get("worker-0") == {}
    assert memories.get("worker-1") == {}
    memories.close()


def test_memory_that_was_spilled_and_put_again_is_the_newer() -> None:
    memories = Memories(500)
    memories.put("worker-0", memory(1))
    memories.put("worker-1", memory(2))  # spills the one before

    memories.put("worker-0", memory(3))

    assert memories.get("worker-0")["count"] == 3
    assert memories.get("worker-1")["count"] == 2
    memories.close()
