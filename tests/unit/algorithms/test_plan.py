from __future__ import annotations

from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.plan import MAIN, Chain, Plan, PlanRequest


def test_plan_lists_its_workers_chain_after_chain() -> None:
    plan = Plan((Chain(("c", "a")), Chain(("b",), "7")))

    assert plan.workers == ("c", "a", "b")
    assert plan.updates is None


def test_plan_of_most_algorithms_draws_workers_that_train_beside_each_other() -> None:
    asked = []

    def draw(names: object, size: int) -> tuple[str, ...]:
        asked.append((names, size))
        return ("b", "d")

    request = PlanRequest(1, ("a", "b", "c", "d"), 2, draw, {})

    plan = FedAvg(FedAvgOptions()).plan(request)

    assert asked == [(("a", "b", "c", "d"), 2)]
    assert plan == Plan((Chain(("b",), MAIN), Chain(("d",), MAIN)))
