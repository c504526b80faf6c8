"""Decoded examples that the processes of one machine share: one decodes them, all map them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fedfleet.data.catalog import Split
from fedfleet.data.shard import Examples, Shards
from fedfleet.sim.array_files import map_arrays, write_arrays
from fedfleet.types import Array

# So much of the shared folder's file system stays free, for what jobs need.
SPARE_BYTES = 1 << 30


class ExampleFiles:
    """Loads shards as ``Shards`` does, and keeps each as a file while there is room.

    Args:
        folder: shared by the processes.
    """

    def __init__(self, shards: Shards, folder: Path) -> None:
        self._shards = shards
        self._folder = folder

    def load(self, split: Split, shard: int | None) -> Examples:
        """Load a shard; raises what ``Shards.load`` raises."""
        return self._kept(f"{split}-{shard}", lambda: self._shards.load(split, shard))

    def exemplars(self, per_class: int) -> Examples:
        """Load exemplars; raises what ``Shards.exemplars`` raises."""
        return self._kept(f"exemplars-{per_class}", lambda: self._shards.exemplars(per_class))

    def _kept(self, name: str, load: Callable[[], Examples]) -> Examples:
        path = self._folder / f"examples-{name}"
        try:
            kept = map_arrays(path)
            return Examples(kept["images"], kept["labels"], kept.get("boxes"))
        except FileNotFoundError:
            examples = load()
            self._keep(path, examples)
            return examples

    def _keep(self, path: Path, examples: Examples) -> None:
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes - examples.images.nbytes < SPARE_BYTES:
            return
        # Under its name only once it is whole; two that did it at once wrote the same.
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        arrays: dict[str, Array] = {"images": examples.images, "labels": examples.labels}
        if examples.boxes is not None:
            arrays["boxes"] = examples.boxes
        write_arrays(unfinished, arrays)
        unfinished.rename(path)
