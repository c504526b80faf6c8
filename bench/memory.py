"""The coordinator's peak memory with 16 workers against 2, for a model of 100 MB, identity codec.

Target: at most 1.10 times as much. The workers are real ones that do not train, 4 to a process.
All of a round's updates are made before the first of them is sent; the uploads that the
coordinator really has open at once are counted, as the partial files of its store.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peaks import watched
from processes import exchanging, finish
from record import record

FEW, MANY = 2, 16
MANY_PROCESSES = 4
TARGET_RATIO = 1.10
EVERY_S = 0.02
RECIPE = """
name = "memory"
[model]
architecture = "mlp"
hidden = [4990, 4990]
[data]
dataset = "synthetic"
features = 16
partition = "iid"
workers = {workers}
[training]
threads = 1
[rounds]
rounds = 3
cohort = {workers}
[evaluation]
coordinator = false
[wire]
uplink = "identity"
"""


class Uploads:
    """Counts the uploads that a coordinator has open."""

    def __init__(self, partial: Path) -> None:
        self._partial = partial
        self.most = 0

    def look(self) -> None:
        if self._partial.exists():
            self.most = max(self.most, len(list(self._partial.iterdir())))


@contextmanager
def counted(partial: Path) -> Iterator[Uploads]:
    """Look again and again while the body runs."""
    uploads = Uploads(partial)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_S):
            uploads.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield uploads
    finally:
        over.set()
        thread.join()


def measure(workers: int, processes: int) -> tuple[float, int, float]:
    """The coordinator's peak in MB, the most uploads at once, the size of an update in MB."""
    with (
        tempfile.TemporaryDirectory() as name,
        exchanging(Path(name), workers, processes, together=True) as control,
        watched({"fedfleet_coordinator": "coordinator"}) as peaks,
        counted(Path(name) / "store" / "partial") as uploads,
    ):
        rounds = finish(control, RECIPE.format(workers=workers)).rounds
    update_mb = rounds[-1].bytes_up / workers / 1e6
    return peaks.megabytes()["coordinator"], uploads.most, update_mb


few_mb, few_at_once, update_mb = measure(FEW, FEW)
many_mb, many_at_once, _ = measure(MANY, MANY_PROCESSES)
ratio = many_mb / few_mb
record(
    "coordinator_memory",
    ratio <= TARGET_RATIO,
    ratio=round(ratio, 3),
    target_ratio=TARGET_RATIO,
    peak_mb={FEW: few_mb, MANY: many_mb},
    uploads_at_once={FEW: few_at_once, MANY: many_at_once},
    update_mb=round(update_mb, 1),
)
