from __future__ import annotations

import numpy as np
from samples import SCHEMA, state, update

from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.plan import MAIN
from fedfleet.rounds.relay import relayed
from fedfleet.types import ModelState

BASE, LANE = state(seed=1), state(seed=2)


class Lanes(FedAvg):
    """Has one lane beside the run's own."""

    def lane_state(self, lane: str, base: ModelState, memory: object) -> ModelState:
        assert (lane, memory) == ("7", {"kept": 1})
        return LANE


ALGORITHM = Lanes(FedAvgOptions())


def test_nobody_before_leaves_the_lanes_model_as_it_is() -> None:
    memory = {"kept": 1}

    assert relayed(ALGORITHM, BASE, memory, MAIN, ()) is BASE  # type: ignore[arg-type]
    assert relayed(ALGORITHM, BASE, memory, "7", ()) is LANE  # type: ignore[arg-type]


def test_work_of_those_before_is_done_in_order_in_float32() -> None:
    deltas = [np.full(9, value, np.float32) for value in (1.0, 1e8, -1e8)]
    earlier = [
        update(trainable=delta, statistics=np.full(6, i), counters=[i])
        for i, delta in enumerate(deltas)
    ]

    found = relayed(ALGORITHM, BASE, {}, MAIN, earlier)

    expected = BASE.trainable
    for delta in deltas:
        expected = expected + delta
    assert found.trainable.dtype == np.float32
    assert found.trainable.tobytes() == expected.tobytes()
    # Another order would lose other bits.
    assert found.trainable.tobytes() != (
        relayed(ALGORITHM, BASE, {}, MAIN, earlier[::-1]).trainable.tobytes()
    )
    assert found.statistics.tolist() == [2.0] * 6
    assert found.counters.tolist() == [2]
    assert found.schema is SCHEMA
