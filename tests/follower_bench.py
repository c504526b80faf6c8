"""A follower that tests take step by step, on a real store."""

from __future__ import annotations

from serving import publish

from fedfleet.errors import FedFleetError, VersionInvalid
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet_inference_api.follower import Course, Follower
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.servable import Servable, load_servable

UNFIT = VersionInvalid("its answer is not a finite number")
BROKEN = FedFleetError("something went wrong")


class Bench:
    """A follower whose clock is moved by hand and whose loads are counted."""

    def __init__(self, store: Store, **course: object) -> None:
        self.store = store
        self.now_s = 100.0
        self.loads: list[int] = []
        self.unfit: set[int] = set()  # versions whose load fails
        self.metrics = Metrics()
        self.follower = Follower(
            store.registry,
            self.load,
            self.metrics,
            Course(poll_s=1.0, **course),
            store.audit,
            actor="inference/here",
            clock=lambda: self.now_s,
        )

    def load(self, record: VersionRecord, alias: str) -> Servable:
        self.loads.append(record.number)
        if record.number in self.unfit:
            raise VersionInvalid("it is not fit")
        return load_servable(self.store.blobs, record, alias)

    def serves(self) -> int | None:
        self.follower.poll()
        current = self.follower.following.current
        return current.record.number if current else None

    def reads(self, registry: object) -> None:
        """Have it read another registry from now on."""
        self.follower._registry = registry
        self.follower._reader._registry = registry

    def fails(self, error: FedFleetError = UNFIT) -> int | None:
        """Have what is served fail; the version that is asked instead."""
        other = self.follower.failed(self.follower.following.current, error)
        return other.record.number if other else None

    def refused(self) -> list[int]:
        return [one.number for one in self.follower.following.refused]

    def counted(self, result: str) -> float | None:
        """How many swaps had this result."""
        return self.metrics.registry.get_sample_value(
            "fedfleet_inference_model_swaps_total", {"result": result}
        )


def served_two(store: Store, **course: object) -> Bench:
    """A follower that has served version 1 and serves 2."""
    bench = Bench(store, **course)
    for seed in (1, 2):
        publish(store, seed)
        bench.serves()
    return bench
