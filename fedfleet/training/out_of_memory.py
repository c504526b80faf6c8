"""How torch, numpy and Python say that memory ran out."""

from __future__ import annotations

# In RuntimeErrors of torch's allocators: the processor's (Linux, Windows), then CUDA's.
_MARKS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error says."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MARKS)
    )
