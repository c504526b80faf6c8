"""Uses a store where files may not grow beyond a limit; exits 0 if it behaves.

Usage: python full_disk_child.py FOLDER
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from contract.store.builders import digest_of

from fedfleet.errors import StoreFull
from fedfleet.store.sqlite import SqliteStore

LIMIT_BYTES = 50_000
DATA = bytes(range(256)) * 400  # 102,400 bytes


def refused(call: object, *arguments: object) -> None:
    assert callable(call)
    try:
        call(*arguments)
    except StoreFull:
        return
    raise AssertionError("StoreFull was not raised")


def main(folder: Path) -> None:
    with SqliteStore(folder) as store:
        writer = store.blobs.writer(digest_of(DATA), len(DATA), "key")
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.RLIM_INFINITY))
        refused(store.blobs.put, DATA)
        writer.write(DATA[:40_000])
        refused(writer.write, DATA[40_000:])
        assert writer.offset_bytes == 40_000
        assert [path.stat().st_size for path in (folder / "partial").iterdir()] == [40_000]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        writer.write(DATA[40_000:])
        writer.commit()
        assert store.blobs.read(digest_of(DATA)) == DATA


if __name__ == "__main__":
    main(Path(sys.argv[1]))
