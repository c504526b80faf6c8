"""What a worker keeps on disk: finished updates until their receipt, and algorithms' memories.

A finished update is one folder that appears by a rename, so after a crash it is there whole or not
at all. The memory that goes with an update becomes the run's memory when the receipt comes: a
worker's memory advances with the updates that counted. It moves there by a rename, so it is in one
place only: a crash right after that leaves an update without a memory, which is offered again, gets
its receipt again, and has nothing more to install.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fedfleet.algorithms.base import Memory
from fedfleet.errors import StoreFull, StoreUnavailable, UpdateInvalid
from fedfleet.store.disk_errors import disk_errors
from fedfleet.store.durable import sync_folder
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.limits import check_digest
from fedfleet.wire.updates import EncodedUpdate, header_from_json, header_to_json
from fedfleet.wire.weights import decode_arrays, encode_arrays

logger = logging.getLogger(__name__)

# Runs that may take turns on a worker without one losing what its algorithm remembers.
MEMORIES = 16
# What a disk is asked for before it counts as having room again, beside what it refused last.
LEAST_ROOM_BYTES = 64 << 10
# Written to find out; what a crash leaves of it is swept at the next start.
_PROBE = "room.probe"


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
        self._folder = folder
        self._updates = folder / "updates"
        self._memories = folder / "memories"
        self._versions = folder / "versions"
        self._asked_bytes = 0
        with disk_errors():
            for path in (self._updates, self._memories, self._versions):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Else a power cut could take the folders away with what was synced in them.
            sync_folder(folder)
            with suppress(PermissionError):  # it is somebody else's
                sync_folder(folder.absolute().parent)
            for path in self._updates.glob("*.new"):
                shutil.rmtree(path)
            (folder / _PROBE).unlink(missing_ok=True)

    def has_room(self) -> bool:
        """Whether there is room, by trying, for what last found none."""
        path = self._folder / _PROBE
        try:
            with disk_errors():
                try:
                    with path.open("wb") as file:
                        left = self._asked_bytes + LEAST_ROOM_BYTES
                        while left > 0:
                            left -= file.write(bytes(min(left, 1 << 20)))
                        file.flush()
                        os.fsync(file.fileno())
                finally:
                    path.unlink(missing_ok=True)
        except (StoreFull, StoreUnavailable):
            return False
        return True

    # Finished updates

    def finished(self) -> list[Finished]:
        """Every update that waits for its receipt; what is damaged is removed and logged.

        Those of earlier rounds come first: the last that is delivered leaves the run's memory.
        """
        with disk_errors():
            folders = sorted(path for path in self._updates.iterdir() if path.is_dir())
            found = [self._read(folder) for folder in folders]
        whole = [update for update in found if update is not None]
        return sorted(whole, key=lambda update: update.header.round)

    def _read(self, folder: Path) -> Finished | None:
        try:
            header = header_from_json(json.loads((folder / "header.json").read_bytes()))
            if (folder / "payload").stat().st_size != header.payload_bytes:
                raise UpdateInvalid("the payload has another size than its header says")
        except (UpdateInvalid, ValueError, FileNotFoundError) as error:
            logger.warning("damaged_update_removed", extra={"reason": repr(error)})
            self._remove(folder)
        except OSError as error:
            # Perhaps it can be read at the next start.
            logger.warning("update_unreadable", extra={"reason": repr(error)})
        else:
            return Finished(folder, header)
        return None

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
        self._asked_bytes = sum(map(len, files.values()))
        with disk_errors():
            try:
                fresh.mkdir(mode=0o700)
                for file_name, data in files.items():
                    _write(fresh / file_name, data)
                sync_folder(fresh)
                if folder.exists():  # one that could not be read at the start
                    self._remove(folder)
                fresh.rename(folder)
                sync_folder(self._updates)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
        return Finished(folder, update.header)

    def delivered(self, update: Finished) -> None:
        """The receipt came: the update's memory is the run's now, the update can go.

        May be called again after any failure, also by another process.
        """
        memory = update.folder / "memory"
        with disk_errors():
            if memory.exists() and memory.stat().st_size:
                path = self._memory_path(update.header.run_id, update.header.level)
                memory.replace(path)
                _touch(path)
                self._forget_memories(path)
                sync_folder(self._memories)
        self.drop(update)

    def drop(self, update: Finished) -> None:
        """The update is not wanted any more."""
        with disk_errors():
            if update.folder.exists():
                self._remove(update.folder)

    def _remove(self, folder: Path) -> None:
        """Take an update away whole: what a crash leaves of it is swept at the next start."""
        doomed = self._updates / f"{folder.name}.{uuid4().hex}.new"
        folder.rename(doomed)
        sync_folder(self._updates)
        shutil.rmtree(doomed, ignore_errors=True)

    # Memories

    def memory(self, run_id: str, level: str) -> Memory:
        """What the algorithm kept on this device for a run at a level; empty at first."""
        path = self._memory_path(run_id, level)
        with disk_errors():
            if not path.exists():
                return {}
            _touch(path)
            return decode_arrays(path.read_bytes())

    def _forget_memories(self, newest: Path) -> None:
        """Keep those of the runs that were worked on last: nobody says that a run is over."""
        runs: dict[str, list[Path]] = {}
        for path in self._memories.iterdir():
            runs.setdefault(path.name.partition("-")[0], []).append(path)
        # The newest is named: a device that boots without a clock stamps it before all others.
        runs.pop(newest.name.partition("-")[0], None)
        others = sorted(runs.values(), key=_newest_ns, reverse=True)
        for paths in others[MEMORIES - 1 :]:
            for path in paths:
                path.unlink()

    def _memory_path(self, run_id: str, level: str) -> Path:
        # At another width it would mean nothing. Level a is named as a run without levels is.
        name = hashlib.sha256(run_id.encode()).hexdigest()[:32]
        return self._memories / (name if level in ("", "a") else f"{name}-{level}")

    # Versions, and the deltas between them

    def held(self) -> frozenset[str]:
        """Digests of what is kept; a torn file among them is found when it is read."""
        with disk_errors():
            return frozenset(path.name for path in self._versions.iterdir())

    def version(self, digest: str) -> bytes | None:
        """A version or delta that was kept and is still whole; what is not is removed."""
        path = self._versions / check_digest(digest)
        with disk_errors():
            data = path.read_bytes() if path.exists() else None
            if data is not None and hashlib.sha256(data).hexdigest() == digest:
                return data
            path.unlink(missing_ok=True)
        return None

    def keep_version(self, digest: str, data: bytes) -> None:
        """Keep a version or a delta until ``keep_versions`` does not name it."""
        path = self._versions / check_digest(digest)
        self._asked_bytes = len(data)
        with disk_errors():
            try:
                # Not synced: a torn file fails its digest and is downloaded again.
                path.write_bytes(data)
            except OSError:
                path.unlink(missing_ok=True)  # a part of it takes room from others
                raise

    def keep_versions(self, digests: Collection[str]) -> None:
        """Remove every version and delta but these."""
        with disk_errors():
            for path in self._versions.iterdir():
                if path.name not in digests:
                    path.unlink()


def _newest_ns(paths: list[Path]) -> int:
    return max(path.stat().st_mtime_ns for path in paths)


def _touch(path: Path) -> None:
    """Mark a file as used now, finer than the clock that the kernel stamps files with."""
    now_ns = time.time_ns()
    os.utime(path, ns=(now_ns, now_ns))


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
