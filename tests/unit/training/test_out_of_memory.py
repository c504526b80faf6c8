from __future__ import annotations

import pytest

from fedfleet.training.out_of_memory import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_error_says_that_memory_ran_out(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: alignment"),
        RuntimeError("the queue ran out of memory slots"),
        ValueError("CUDA out of memory"),
    ],
    ids=str,
)
def test_error_of_something_else_is_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)
