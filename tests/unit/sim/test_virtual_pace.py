"""Rounds in virtual time as on devices: partial work, deadlines from history, who leaves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fedfleet.errors import SettingInvalid
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.coordinator import SimulatedCoordinator
from fedfleet.sim.devices import assign, parse_devices
from fedfleet.sim.driver import simulate
from fedfleet.sim.outcome import Simulation
from fedfleet.sim.traces import parse_traces
from fedfleet.training.local import PARTIAL
from fedfleet.training.seeding import derive

WORKERS = 10
RECIPE = """
name = "pace"
seed = 3
[model]
architecture = "mlp"
hidden = [8]
[data]
dataset = "digits"
partition = "iid"
workers = 10
[training]
epochs = {epochs}
validation_fraction = 0.0
threads = 1
[rounds]
rounds = {rounds}
cohort = {cohort}
{more}
[evaluation]
workers = "none"
coordinator = {evaluated}
"""
# A worker holds 143 or 144 examples: an epoch of 5 steps.
SHARD = 144
UNEQUAL = """
[[profiles]]
name = "fast"
count = 6
samples_per_s = 100.0
[[profiles]]
name = "slow"
count = 4
samples_per_s = 10.0
"""
ALIKE = '[[profiles]]\nname = "one"\nshare = 1.0\nsamples_per_s = 10.0\n'


def recipe_of(
    more: str = "",
    *,
    rounds: int = 4,
    cohort: int = WORKERS,
    epochs: int = 2,
    evaluated: bool = False,
) -> Recipe:
    flag = "true" if evaluated else "false"
    return parse_recipe(
        RECIPE.format(rounds=rounds, cohort=cohort, epochs=epochs, more=more, evaluated=flag)
    )


def ends_of(found: Simulation) -> list[float]:
    return [one.virtual_s or math.nan for one in found.rounds]


def lasted(found: Simulation) -> list[float]:
    ends = ends_of(found)
    return [b - a for a, b in zip([0.0, *ends], ends, strict=False)]


class Metrics:
    """Notes what each update says of its training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: dict[str, int] = {}
        self.shares: dict[str, float] = {}
        admit = SimulatedCoordinator.admit

        def noting(coordinator: Any, trained: Any, *rest: Any) -> None:
            header = trained.update.header
            self.steps[header.worker_id] = header.steps
            self.shares[header.worker_id] = header.metrics.get(PARTIAL, 1.0)
            admit(coordinator, trained, *rest)

        monkeypatch.setattr(SimulatedCoordinator, "admit", noting)


def test_semi_synchronous_rounds_end_together_and_the_fast_do_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted = Metrics(monkeypatch)
    recipe = recipe_of('mode = "semi-synchronous"\ndeadline_s = 20.0', epochs=100)
    kinds = assign(
        parse_devices(UNEQUAL),
        [f"worker-{i}" for i in range(WORKERS)],
        derive(recipe.seed, "devices"),
    )

    found = simulate(recipe, devices=parse_devices(UNEQUAL))

    assert found.outcome == "completed"
    assert all(len(one.workers) == WORKERS for one in found.rounds)
    assert all(19.0 < seconds <= 20.0 for seconds in lasted(found))
    for worker, steps in noted.steps.items():
        fits = 20.0 * kinds[worker].samples_per_s  # type: ignore[operator]
        assert steps == int(fits / 32), worker
        assert noted.shares[worker] == pytest.approx(steps / (100 * 5))


def test_semi_synchronous_round_ends_when_all_have_done_their_most() -> None:
    found = simulate(
        recipe_of('mode = "semi-synchronous"\ndeadline_s = 1000.0'), devices=parse_devices(UNEQUAL)
    )

    assert all(seconds == pytest.approx(2 * SHARD / 10, abs=0.3) for seconds in lasted(found))


def test_partial_work_of_stragglers_counts_in_synchronous_rounds_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted = Metrics(monkeypatch)

    found = simulate(recipe_of("deadline_s = 15.0"), devices=parse_devices(UNEQUAL))

    assert found.outcome == "completed"
    assert set(noted.shares.values()) == {1.0, 0.4}
    assert lasted(found) == pytest.approx([4 * 32 / 10] * 4)  # four steps, and no fifth


def test_deadline_from_history_shortens_rounds_of_the_fast() -> None:
    more = 'deadline = "history"\ndeadline_s = 500.0\nquorum = 6\ndeadline_quantile = 0.6'
    text = recipe_of(more).source.replace("epochs = 2", "epochs = 2\npartial_work = false")

    found = simulate(parse_recipe(text), devices=parse_devices(UNEQUAL))

    assert found.outcome == "completed"
    # The first has nothing to go by; six of ten are fast, so that the rest is waited for no more.
    assert lasted(found)[0] == pytest.approx(2 * SHARD / 10, abs=0.3)
    assert lasted(found)[1:] == pytest.approx([1.5 * 2 * SHARD / 100] * 3, abs=0.1)
    assert [len(one.workers) for one in found.rounds] == [10, 6, 6, 6]


def test_deadline_from_history_does_not_end_a_run_whose_fleet_became_slower() -> None:
    """The fast leave and the slow come: the history moves with commits, and there is none."""
    more = 'deadline = "history"\ndeadline_s = 300.0\nattempts = 3'
    text = recipe_of(more, cohort=4).source.replace(
        "epochs = 2", "epochs = 2\npartial_work = false"
    )
    recipe, devices = parse_recipe(text), parse_devices(UNEQUAL)
    fleet = [f"worker-{i}" for i in range(WORKERS)]
    kinds = assign(devices, fleet, derive(recipe.seed, "devices"))
    slow = [name for name in fleet if kinds[name].name == "slow"]
    fast = [name for name in fleet if name not in slow]
    traces = parse_traces(
        f"[[traces]]\nworkers = {fast}\nonline_s = [[0.0, 5.0]]\n"
        f"[[traces]]\nworkers = {slow}\nonline_s = [[4.0, inf]]\n"
    )

    found = simulate(recipe, devices=devices, availability=traces)

    assert found.reason == ""
    assert set(found.rounds[-1].workers) == set(slow)


VANISHING = "[[traces]]\nshare = 0.3\nonline_s = [[0.0, 70.0]]\n"


def test_rounds_finish_at_the_deadline_when_a_third_vanishes_for_good() -> None:
    recipe = recipe_of("quorum = 4\ndeadline_s = 50.0", rounds=8, cohort=6)
    traces = parse_traces(VANISHING)

    found = simulate(recipe, devices=parse_devices(ALIKE), availability=traces)

    assert found.outcome == "completed"
    assert max(lasted(found)) <= 50.0 + 1e-6
    # An undisturbed round takes 28.8 s: the third was cut into, and waited for its deadline.
    lost = lasted(found)[2]
    assert (lost, len(found.rounds[2].workers) < 6) == (pytest.approx(50.0), True)
    assert all(seconds == pytest.approx(28.8, abs=0.2) for seconds in lasted(found)[3:])
    everybody = {worker for one in found.rounds for worker in one.workers}
    remaining = {worker for one in found.rounds[3:] for worker in one.workers}
    assert len(everybody) > 7
    assert len(remaining) == 7


def test_run_fails_at_its_deadlines_when_too_few_are_left() -> None:
    recipe = recipe_of("quorum = 8\ndeadline_s = 50.0\nattempts = 2")

    found = simulate(recipe, devices=parse_devices(ALIKE), availability=parse_traces(VANISHING))

    assert (found.outcome, found.code) == ("failed", "QUORUM_NOT_MET")
    assert len(found.rounds) == 2
    assert "7 workers ready" in found.reason


def test_worker_that_comes_back_begins_anew() -> None:
    trace = '[[traces]]\nworkers = ["worker-1"]\nonline_s = [[0.0, 20.0], [30.0, inf]]\n'
    recipe = recipe_of("deadline_s = 90.0", rounds=1)

    found = simulate(recipe, devices=parse_devices(ALIKE), availability=parse_traces(trace))

    assert len(found.rounds[0].workers) == WORKERS
    assert ends_of(found)[0] == pytest.approx(30.0 + 2 * SHARD / 10, abs=0.3)


def test_run_with_availability_goes_on_from_its_checkpoint_as_if_undisturbed(
    tmp_path: Path,
) -> None:
    trace = "[[traces]]\nshare = 0.5\nonline_s = [[0.0, 40.0]]\nperiod_s = 60.0\n"
    devices, traces = parse_devices(UNEQUAL), parse_traces(trace)
    more = 'quorum = 3\ndeadline = "history"\ndeadline_s = 60.0\nattempts = 9'
    recipe = recipe_of(more, rounds=6, cohort=5)

    class Cut(Exception):
        pass

    def cut(done: Any) -> None:
        if done.round == 3:
            raise Cut

    whole = simulate(recipe, devices=devices, availability=traces)
    with pytest.raises(Cut):
        simulate(recipe, None, cut, checkpoint=tmp_path, devices=devices, availability=traces)
    again = simulate(recipe, checkpoint=tmp_path, devices=devices, availability=traces)

    assert ends_of(again) == ends_of(whole)
    assert [one.workers for one in again.rounds] == [one.workers for one in whole.rounds]
    assert (again.state.trainable == whole.state.trainable).all()


def test_availability_needs_devices() -> None:
    with pytest.raises(SettingInvalid, match="needs devices"):
        simulate(recipe_of(), availability=parse_traces(VANISHING))


def test_model_that_does_not_fit_fails_with_out_of_memory() -> None:
    small = UNEQUAL.replace('name = "slow"', 'name = "slow"\nmemory_bytes = 10_000')
    enough = UNEQUAL.replace('name = "slow"', 'name = "slow"\nmemory_bytes = 1_000_000')

    found = simulate(recipe_of("attempts = 1"), devices=parse_devices(small))
    fitting = simulate(recipe_of("attempts = 1"), devices=parse_devices(enough))

    assert (found.outcome, found.code) == ("failed", "QUORUM_NOT_MET")
    assert "OUT_OF_MEMORY: training level a takes" in found.reason
    assert fitting.outcome == "completed"


def test_half_normal_jitter_is_drawn_anew_for_each_training_by_the_seed() -> None:
    jittered = parse_devices(ALIKE + "jitter = 1.2533\n")
    recipe = recipe_of(rounds=12, cohort=1, epochs=1)

    found = lasted(simulate(recipe, devices=jittered))

    assert found == lasted(simulate(recipe, devices=jittered))
    assert len(set(found)) == 12
    assert 0.4 < sum(found) / 12 / (SHARD / 10) < 1.7


@pytest.mark.parametrize(("shares", "ratio"), [("[1.0, 0.0]", 1.0), ("[0.0, 1.0]", 0.5)])
def test_narrower_levels_are_faster_by_their_operations(shares: str, ratio: float) -> None:
    levels = f'[algorithm]\nname = "heterofl"\n[levels]\nrates = [1.0, 0.5]\nshares = {shares}\n'
    recipe = parse_recipe(recipe_of(rounds=1).source + levels)

    found = simulate(recipe, devices=parse_devices(ALIKE))

    assert lasted(found)[0] == pytest.approx(ratio * 2 * SHARD / 10, rel=0.01)
