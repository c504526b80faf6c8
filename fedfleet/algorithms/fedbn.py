"""FedBN (Li et al. 2021, arXiv 2102.07623, Algorithm 1): batch normalisation stays on the device.

Everything in a batch normalisation layer is local: scale, shift, running mean and variance, and the
count of batches. The worker trains and evaluates with its own; the coordinator's copy never moves,
so a version alone is for a device that has adapted it. A worker that takes part for the first time
starts from the coordinator's.

A layer is known by its running statistics, whatever its name. One that keeps none has none to leak;
its scale and shift are averaged like any parameter.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedfleet.algorithms.base import Finished, Memory, Outcome, Received, RoundResult, Trained
from fedfleet.algorithms.fedavg import FedAvg
from fedfleet.types import Kind, ModelState, Schema, Section

_OWN = {kind: f"fedbn.{kind.value}" for kind in Kind}
_RUNNING = "running_mean"


class FedBN(FedAvg):
    """FedAvg of everything but batch normalisation."""

    takes_levels = False

    def start_from(self, received: Received) -> ModelState:
        """The version with this worker's own batch normalisation put in."""
        version = received.version
        if _OWN[Kind.TRAINABLE] not in received.memory:
            return version
        trainable_P = version.trainable.copy()
        trainable_P[local_places(version.schema)] = received.memory[_OWN[Kind.TRAINABLE]]
        return ModelState(
            version.schema,
            trainable_P,
            received.memory[_OWN[Kind.STATISTIC]],
            received.memory[_OWN[Kind.COUNTER]],
        )

    def finish(self, received: Received, trained: Trained) -> Finished:
        """Send no change of what is local; keep it."""
        places = local_places(trained.state.schema)
        delta_P = trained.delta
        delta_P[places] = 0.0
        version = received.version
        memory: Memory = {
            _OWN[Kind.TRAINABLE]: trained.state.trainable[places],
            _OWN[Kind.STATISTIC]: trained.state.statistics,
            _OWN[Kind.COUNTER]: trained.state.counters,
        }
        delta, _, _ = self.built_in(trained, delta_P)
        return Finished(
            (
                delta,
                Section(Kind.STATISTIC.value, Kind.STATISTIC, version.statistics),
                Section(Kind.COUNTER.value, Kind.COUNTER, version.counters),
            ),
            memory,
        )

    def step(self, result: RoundResult) -> Outcome:
        """As FedAvg, and leave what is local where it is, whatever a codec or a worker says."""
        base, places = result.base, local_places(result.base.schema)
        trainable_P = super().step(result).state.trainable.copy()
        trainable_P[places] = base.trainable[places]
        return Outcome(replace(base, trainable=trainable_P), result.memory)


def local_places(schema: Schema) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Positions in the trainable vector that belong to layers with running statistics."""
    layers = {
        param.name.removesuffix(_RUNNING)
        for param, _ in schema.layout(Kind.STATISTIC)
        if param.name.endswith(_RUNNING)
    }
    spans = [
        np.arange(place.start, place.stop)
        for param, place in schema.layout(Kind.TRAINABLE)
        if param.name.removesuffix(param.name.rpartition(".")[2]) in layers
    ]
    return np.concatenate(spans) if spans else np.zeros(0, np.int64)
