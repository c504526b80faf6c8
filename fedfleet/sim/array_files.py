"""Named arrays in a file that another process maps into its memory: nothing is parsed, and what is
large is not copied.

Where the machine has a file system in memory, these files never reach a disk. A file that is
deleted lives on until the last process that mapped it lets go.
"""

from __future__ import annotations

import json
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
# Smaller files are read: a map takes whole pages, and a process may have some 65,000 of them only.
_MAPPED_BYTES = 1 << 20


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
    """Map what ``write_arrays`` wrote; whoever writes into these arrays changes nobody else's.

    However many are held, none of them holds an open file.

    Raises:
        FileNotFoundError: no such file.
    """
    size = path.stat().st_size
    data = _mapped(path, size) if size >= _MAPPED_BYTES else np.fromfile(path, np.uint8)
    start = _HEAD_BYTES + int.from_bytes(data[:_HEAD_BYTES].tobytes(), "little")
    return {
        name: np.ndarray(tuple(shape), np.dtype(dtype), buffer=data.data, offset=start + offset)
        for name, dtype, shape, offset in json.loads(data[_HEAD_BYTES:start].tobytes())
    }


def _mapped(path: Path, size: int) -> Array:
    """A file's bytes as a private map.

    PyTorch's closes its file. Python's ``mmap`` keeps a descriptor as long as it lives (before
    3.13 always), and a process may have only some thousand.
    """
    # Here and not above: the command line reads this module, and need not wait for torch.
    import torch

    try:
        data: Array = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError:
        path.stat()  # raises FileNotFoundError where it was deleted meanwhile
        raise
    return data
