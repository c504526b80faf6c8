"""What a worker keeps on disk: finished updates until their receipt, and algorithms' memories.

A finished update is one folder that appears by a rename, so after a crash it is there whole or not
at all. The memory that goes with an update becomes the run's memory when the receipt comes: a
worker's memory advances with the updates that counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fedfleet.algorithms.base import Memory
from fedfleet.store.disk_errors import disk_errors
from fedfleet.store.durable import sync_folder
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.updates import EncodedUpdate, header_from_json, header_to_json
from fedfleet.wire.weights import decode_arrays, encode_arrays


@dataclass(frozen=True)
class Finished:
    """An update on disk that has no receipt yet."""

    folder: Path
    header: pb.UpdateHeader

    @property
    def assignment_id(self) -> str:
        return self.header.assignment_id

    def read(self, offset_bytes: int, length: int) -> bytes:
        """A piece of the payload."""
        with disk_errors(), (self.folder / "payload").open("rb") as file:
            file.seek(offset_bytes)
            return file.read(length)


class Disk:
    """The state folder of one worker; one process at a time."""

    def __init__(self, folder: Path) -> None:
        self._updates = folder / "updates"
        self._memories = folder / "memories"
        self._versions = folder / "versions"
        with disk_errors():
            for path in (self._updates, self._memories, self._versions):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._updates.glob("*.new"):
                shutil.rmtree(path)

    # Finished updates

    def finished(self) -> list[Finished]:
        """Every update that waits for its receipt."""
        with disk_errors():
            folders = sorted(self._updates.iterdir())
            headers = [json.loads((path / "header.json").read_text()) for path in folders]
        return [
            Finished(path, header_from_json(header))
            for path, header in zip(folders, headers, strict=True)
        ]

    def keep(self, update: EncodedUpdate, memory: Memory) -> Finished:
        """Write an update and the memory that goes with it, durably, all or nothing.

        Raises:
            StoreFull: no room; nothing was kept.
        """
        name = hashlib.sha256(update.header.assignment_id.encode()).hexdigest()[:32]
        folder = self._updates / name
        fresh = self._updates / f"{name}.{uuid4().hex}.new"
        files = {
            "header.json": json.dumps(header_to_json(update.header)).encode(),
            "payload": update.payload,
            "memory": encode_arrays(memory) if memory else b"",
        }
        with disk_errors():
            try:
                fresh.mkdir(mode=0o700)
                for file_name, data in files.items():
                    _write(fresh / file_name, data)
                sync_folder(fresh)
                fresh.rename(folder)
                sync_folder(self._updates)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
        return Finished(folder, update.header)

    def delivered(self, update: Finished) -> None:
        """The receipt came: the update's memory is the run's now, the update can go."""
        memory = update.folder / "memory"
        with disk_errors():
            if memory.exists() and memory.stat().st_size:
                memory.replace(self._memory_path(update.header.run_id))
                sync_folder(self._memories)
        self.drop(update)

    def drop(self, update: Finished) -> None:
        """The update is not wanted any more."""
        with disk_errors():
            shutil.rmtree(update.folder, ignore_errors=True)

    # Memories

    def memory(self, run_id: str) -> Memory:
        """What the algorithm kept on this device for a run; empty at first."""
        path = self._memory_path(run_id)
        with disk_errors():
            return decode_arrays(path.read_bytes()) if path.exists() else {}

    def _memory_path(self, run_id: str) -> Path:
        return self._memories / hashlib.sha256(run_id.encode()).hexdigest()[:32]

    # Versions

    def version(self, digest: str) -> bytes | None:
        """A version that was downloaded before and is still whole."""
        path = self._versions / digest
        with disk_errors():
            data = path.read_bytes() if path.exists() else None
        if data is not None and hashlib.sha256(data).hexdigest() == digest:
            return data
        return None

    def keep_version(self, digest: str, data: bytes) -> None:
        """Keep the newest version only: it is what the next round may be a delta of."""
        with disk_errors():
            for path in self._versions.iterdir():
                path.unlink()
            # Not synced: a torn file fails its digest and is downloaded again.
            (self._versions / digest).write_bytes(data)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
