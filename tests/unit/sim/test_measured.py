from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from fedfleet.errors import SettingInvalid
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.devices import DeviceProfile
from fedfleet.sim.driver import simulate
from fedfleet.sim.outcome import Simulation

RECIPE = """
name = "measured"
seed = 4
[model]
architecture = "mlp"
hidden = [64]
[data]
dataset = "digits"
partition = "iid"
workers = 4
[training]
batch_size = 16
threads = 1
partial_work = false
[levels]
rates = [1.0, 0.5, 0.25, 0.125]
assignment = "measured"
target_s = 10.0
[rounds]
rounds = {rounds}
cohort = 4
quorum = 2
deadline_s = {deadline_s}
[evaluation]
coordinator = false
"""


def recipe(rounds: int = 2, deadline_s: float = 100.0) -> Recipe:
    return parse_recipe(RECIPE.format(rounds=rounds, deadline_s=deadline_s))


def device(name: str, flops_per_s: float, **more: float) -> DeviceProfile:
    return DeviceProfile(name=name, count=2, flops_per_s=flops_per_s, **more)  # type: ignore[arg-type]


def run(recipe: Recipe, devices: Sequence[DeviceProfile]) -> Simulation:
    return simulate(recipe, devices=devices)


def durations_s(done: Simulation) -> list[float]:
    times = [0.0, *(one.virtual_s or 0.0 for one in done.rounds)]
    return [after - before for before, after in itertools.pairwise(times)]


class Interrupted(Exception):
    pass


def test_devices_train_the_level_that_meets_the_target() -> None:
    done = run(recipe(), [device("quick", 2e6), device("slow", 1.2e5)])

    for one in done.rounds:
        assert len(one.workers) == 4
        # Who trains level a is not named.
        assert sorted(one.levels.values()) == ["d", "d"]
    # The first round waits for the probes as well.
    assert durations_s(done)[1] <= 10.0


def test_same_devices_without_levels_wait_for_the_slowest() -> None:
    plain = RECIPE.format(rounds=2, deadline_s=100.0)
    before, _, rest = plain.partition("[levels]")
    whole = parse_recipe(f"{before}[rounds]{rest.partition('[rounds]')[2]}")

    done = run(whole, [device("quick", 2e6), device("slow", 1.2e5)])

    assert durations_s(done)[1] > 50.0


def test_devices_with_little_memory_train_a_narrow_level() -> None:
    done = run(recipe(), [device("roomy", 2e6), device("tight", 2e6, memory_bytes=60_000)])

    assert all(set(one.levels.values()) and len(one.levels) == 2 for one in done.rounds)


def test_device_that_is_never_there_in_time_gets_a_narrower_level() -> None:
    """Its link says nothing of what a transfer's latency costs, and no update comes in 9 s."""
    late = device("late", 2e6, latency_s=4.0)
    made = recipe(rounds=6, deadline_s=9.0)

    done = run(made, [device("quick", 2e6), late])

    first, last = done.rounds[0], done.rounds[-1]
    assert not first.levels
    assert len(first.workers) == 2
    assert len(last.levels) == 2
    assert len(last.workers) == 4


def test_simulation_without_devices_has_nothing_to_measure() -> None:
    with pytest.raises(SettingInvalid, match="name devices"):
        simulate(recipe())


def test_levels_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    made = recipe(rounds=6)
    devices = [device("quick", 2e6), device("slow", 4e5, jitter=1.25)]
    whole = run(made, devices)
    rounds = []

    def stop(one: object) -> None:
        rounds.append(one)
        if len(rounds) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        simulate(made, on_round=stop, checkpoint=tmp_path, devices=devices)
    again = simulate(made, checkpoint=tmp_path, devices=devices)

    assert [one.levels for one in again.rounds] == [one.levels for one in whole.rounds]
    assert len({tuple(one.levels.items()) for one in whole.rounds}) > 1
