"""Updates that lie on a worker's disk until their receipt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from samples import SCHEMA, header

from fedfleet.types import Kind, Section, Update
from fedfleet.wire.updates import EncodedUpdate, encode_update
from fedfleet_worker.disk import Disk, Finished


def an_update(values: int = 5, **changes: object) -> EncodedUpdate:
    """An update of worker ``w``, its delta 0, 1, 2 and so on."""
    section = Section("trainable", Kind.TRAINABLE, np.arange(values, dtype=np.float32))
    return encode_update(Update(header(SCHEMA, worker_id="w", **changes), (section,)))


def keep_update(folder: Path, values: int = 5) -> Finished:
    """A finished update on disk, with memory, as an earlier process left it."""
    return Disk(folder).keep(an_update(values), {"c": np.ones(2)})
