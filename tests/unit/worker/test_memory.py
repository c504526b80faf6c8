from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from fedfleet.errors import OutOfMemory
from fedfleet_worker import memory
from fedfleet_worker.memory import MemoryLimit, out_of_memory, release_memory

MIB = 1 << 20
# More than any address space: refused by every allocator, without touching the machine's memory.
TOO_MANY = 1 << 60


def torch_on_the_processor() -> None:
    torch.empty(TOO_MANY, dtype=torch.uint8)


def numpy_arrays() -> None:
    np.empty(TOO_MANY, np.uint8)


def python_objects() -> None:
    bytes(TOO_MANY)


def torch_on_an_accelerator() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def torch_in_a_library_of_the_accelerator() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize(
    "allocate",
    [
        torch_on_the_processor,
        numpy_arrays,
        python_objects,
        torch_on_an_accelerator,
        torch_in_a_library_of_the_accelerator,
    ],
)
def test_every_way_of_running_out_of_memory_is_one_error(allocate: object) -> None:
    assert callable(allocate)
    with pytest.raises(OutOfMemory, match="narrower level") as caught, out_of_memory():
        allocate()

    assert caught.value.detail


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_accelerator_that_is_too_small_says_so() -> None:
    with pytest.raises(OutOfMemory), out_of_memory():
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("no")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), out_of_memory():
        raise error


def test_error_does_not_hold_what_there_was_no_room_for() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def train() -> None:
        activations = torch.ones(10)
        held.append(weakref.ref(activations))
        torch_on_the_processor()

    with pytest.raises(OutOfMemory) as caught, out_of_memory():
        train()

    gc.collect()
    assert held[0]() is None
    assert caught.value.__cause__ is None


def resident_mib() -> float:
    return float(psutil.Process().memory_info().rss) / MIB


def test_limit_below_what_is_there_refuses_to_begin() -> None:
    with pytest.raises(OutOfMemory, match="this device allows 1:"):
        MemoryLimit(MIB).begin()


def test_no_limit_never_ends_anything() -> None:
    limit = MemoryLimit()
    limit.begin()
    limit.check()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux remembers a peak that can be reset")
def test_limit_counts_what_was_freed_before_anybody_looked() -> None:
    limit = MemoryLimit(int((resident_mib() + 200) * MIB))
    limit.begin()
    limit.check()
    assert np.ones(400 * MIB // 8).sum() > 0  # and freed at once
    with pytest.raises(OutOfMemory):
        limit.check()

    limit.begin()  # and forgotten: the next training has a peak of its own


def test_limit_is_of_what_is_held_where_the_peak_cannot_be_forgotten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "read-only" / "clear_refs")
    limit = MemoryLimit(int((resident_mib() + 200) * MIB))
    assert np.ones(400 * MIB // 8).sum() > 0  # an earlier training, which ended as it had to

    limit.begin()
    limit.check()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system takes freed memory back")
def test_released_memory_is_the_systems_again() -> None:
    before = resident_mib()
    # Small pieces, which the C library keeps when they are freed.
    pieces = [bytearray(64 << 10) for _ in range(3200)]
    keeper = bytearray(64 << 10)
    assert resident_mib() > before + 150
    pieces.clear()
    release_memory()

    assert resident_mib() < before + 50
    assert len(keeper) == 64 << 10
