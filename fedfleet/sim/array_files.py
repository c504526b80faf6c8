"""Named arrays in a file that another process maps into its memory: nothing is copied or parsed.

Where the machine has a file system in memory, these files never reach a disk. A file that is
deleted lives on until the last process that mapped it lets go.
"""

from __future__ import annotations

import json
import mmap
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedfleet.types import Array

# Linux's file system in memory; elsewhere the temporary folder, whose pages are cached anyway.
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
# A container may have only megabytes of it, and an array that does not fit ends the run.
_ROOM_BYTES = 2 << 30
_ALIGNMENT = 64
_HEAD_BYTES = 8


def shared_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder for files that processes of this machine share; in memory if possible."""
    has_room = _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free >= _ROOM_BYTES
    place = _IN_MEMORY if has_room else None
    return tempfile.TemporaryDirectory(prefix="fedfleet-", dir=place)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays of plain dtypes to a new file."""
    table: list[tuple[str, str, tuple[int, ...], int]] = []
    size = 0
    for name, array in arrays.items():
        table.append((name, array.dtype.str, array.shape, size))
        size += array.nbytes + -array.nbytes % _ALIGNMENT
    head = json.dumps(table).encode()
    head += b" " * (-(len(head) + _HEAD_BYTES) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(_HEAD_BYTES, "little") + head)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
            file.write(bytes(-array.nbytes % _ALIGNMENT))


def map_arrays(path: Path) -> dict[str, Array]:
    """Map what ``write_arrays`` wrote; whoever writes into these arrays changes nobody else's."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = _HEAD_BYTES + int.from_bytes(mapped[:_HEAD_BYTES], "little")
    return {
        name: np.ndarray(tuple(shape), np.dtype(dtype), buffer=mapped, offset=start + offset)
        for name, dtype, shape, offset in json.loads(mapped[_HEAD_BYTES:start])
    }
