"""What simulated workers keep between rounds: in memory up to a bound, beyond it in files."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from pathlib import Path

from fedfleet.algorithms.base import Memory
from fedfleet.wire.weights import decode_arrays, encode_arrays

# Of arrays in this process's memory; a worker's own state may be as large as the model.
BOUND_BYTES = 256 << 20


class Memories:
    """The memory of every worker that took part.

    Args:
        bound_bytes: of arrays kept in memory; those of the workers that were touched longest ago
            go to files in a temporary folder.

    Attributes:
        held_bytes: of the arrays that are in memory now.
    """

    def __init__(self, bound_bytes: int = BOUND_BYTES) -> None:
        self._bound_bytes = bound_bytes
        self.held_bytes = 0
        self._held: OrderedDict[str, Memory] = OrderedDict()
        self._spilled: set[str] = set()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def get(self, worker_id: str) -> Memory:
        """What a worker keeps; empty before its first update counted."""
        if worker_id in self._held:
            self._held.move_to_end(worker_id)
            return self._held[worker_id]
        if worker_id in self._spilled:
            return decode_arrays(self._file(worker_id).read_bytes())
        return {}

    def put(self, worker_id: str, memory: Memory) -> None:
        """Take what a worker keeps from now on."""
        self.held_bytes -= _size(self._held.pop(worker_id, {}))
        if not memory:
            self._spilled.discard(worker_id)
            return
        self._held[worker_id] = memory
        self.held_bytes += _size(memory)
        while self.held_bytes > self._bound_bytes:
            self._spill(*self._held.popitem(last=False))

    def close(self) -> None:
        """Delete the files."""
        if self._folder is not None:
            self._folder.cleanup()

    def _spill(self, worker_id: str, memory: Memory) -> None:
        self.held_bytes -= _size(memory)
        self._file(worker_id).write_bytes(encode_arrays(memory))
        self._spilled.add(worker_id)

    def _file(self, worker_id: str) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fedfleet-memories-")
        return Path(self._folder.name) / f"{worker_id}.safetensors"


def _size(memory: Memory) -> int:
    return sum(array.nbytes for array in memory.values())
