"""Profiles are told to workers by the seed alone, and say how long their work takes."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import SettingInvalid
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rounds.static_norm import Measured
from fedfleet.sim.devices import DeviceProfile, ModelCost, Pace, assign, parse_devices
from fedfleet.sim.driver import simulate
from fedfleet.sim.flops import forward_flops
from fedfleet.sim.jobs import Evaluated, Failed, Queried, Trained
from fedfleet.training.seeding import derive
from fedfleet.types import Evaluation, Update, UpdateHeader

FLEET = tuple(f"worker-{i}" for i in range(10))
TWO_KINDS = """
[[profiles]]
name = "pi"
share = 0.7
samples_per_s = 50.0
down_bytes_per_s = 1e6
up_bytes_per_s = 2.5e5
latency_s = 0.05
[[profiles]]
name = "jetson"
share = 0.3
flops_per_s = 1e10
"""


def test_parse_devices_reads_every_field() -> None:
    assert parse_devices(TWO_KINDS) == (
        DeviceProfile(
            name="pi",
            share=0.7,
            samples_per_s=50.0,
            down_bytes_per_s=1e6,
            up_bytes_per_s=2.5e5,
            latency_s=0.05,
        ),
        DeviceProfile(name="jetson", share=0.3, flops_per_s=1e10),
    )


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "profiles"),
        ("profiles = 3", "profiles"),
        ("profiles = [1]", r"profiles\[0\] = 1: must be a table"),
        ('profiles = [{name = "pi", share = 1.0, samples_per_s = 1.0}, "x"]', r"profiles\[1\] = "),
        ("x = 1\n" + TWO_KINDS, "profiles"),
        ("[[profiles", "TOML"),
        (TWO_KINDS.replace("0.3", "0.4"), "add up to 1.1"),
        (TWO_KINDS.replace("share = 0.3", "count = 3"), "every"),
        (TWO_KINDS.replace("share = 0.3", ""), "count"),
        (TWO_KINDS.replace("share = 0.3", "share = 0.3\nsamples_per_s = 1"), "samples_per_s"),
        (TWO_KINDS.replace("samples_per_s = 50.0", "samples_per_s = 0"), "samples_per_s = 0"),
        (TWO_KINDS.replace("latency_s = 0.05", "latency_s = -1"), "latency_s"),
        (TWO_KINDS.replace("latency_s", "latencies"), "latencies"),
    ],
)
def test_parse_devices_names_what_is_wrong(text: str, word: str) -> None:
    with pytest.raises(SettingInvalid, match=word):
        parse_devices(text)


@given(
    shares=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    workers=st.integers(1, 60),
    seed=st.integers(0, 2**63 - 1),
)
def test_assign_gives_each_kind_its_share_to_within_one(
    shares: list[int], workers: int, seed: int
) -> None:
    profiles = [
        DeviceProfile(name=str(place), share=share / sum(shares), samples_per_s=1.0)
        for place, share in enumerate(shares)
    ]
    fleet = [f"worker-{i}" for i in range(workers)]

    found = assign(profiles, fleet, seed)

    assert set(found) == set(fleet)
    counts = Counter(profile.name for profile in found.values())
    for profile in profiles:
        assert abs(counts[profile.name] - (profile.share or 0) * workers) < 1
    assert assign(profiles, list(reversed(fleet)), seed) == found


def test_assign_depends_on_the_seed_and_refuses_counts_of_another_fleet() -> None:
    profiles = [
        DeviceProfile(name="slow", count=4, samples_per_s=1.0),
        DeviceProfile(name="fast", count=6, samples_per_s=9.0),
    ]

    assert assign(profiles, FLEET, 1) != assign(profiles, FLEET, 2)
    with pytest.raises(SettingInvalid, match="10, the fleet has 9"):
        assign(profiles, FLEET[:9], 1)


def trained(examples: int, upload_bytes: int) -> Trained:
    header = UpdateHeader(
        run_id="sim",
        round=1,
        assignment_id="a",
        worker_id="worker-0",
        base_digest="sim",
        schema_digest="",
        weight=1.0,
        steps=1,
        lr_sum=1.0,
    )
    return Trained(
        assignment_id="a",
        update=Update(header, ()),
        memory={},
        upload_bytes=upload_bytes,
        examples=examples,
    )


def test_pace_adds_download_training_and_upload() -> None:
    pi, jetson = parse_devices(TWO_KINDS)
    pace = Pace({"worker-0": pi, "worker-1": jetson}, {"a": ModelCost(forward_flops=1_000_000)})

    slow_s = pace.seconds("worker-0", 2_000_000, trained(200, 500_000))
    fast_s = pace.seconds("worker-1", 2_000_000, trained(200, 500_000))

    assert slow_s == pytest.approx(0.05 + 2.0 + 200 / 50 + 2.0 + 0.05)
    assert fast_s == pytest.approx(200 * 3e6 / 1e10)


def test_pace_of_an_evaluation_is_a_forward_pass_and_of_a_failure_the_download() -> None:
    pi, _ = parse_devices(TWO_KINDS)
    pace = Pace({"worker-0": pi}, {"a": ModelCost(forward_flops=0)})
    evaluation = Evaluation(
        samples=300,
        loss_sum=0.0,
        correct=0,
        top5=0,
        class_samples=(300,),
        class_correct=(0,),
        class_predicted=(0,),
    )

    evaluated_s = pace.seconds("worker-0", 0, Evaluated(assignment_id="a", evaluation=evaluation))
    failed_s = pace.seconds("worker-0", 1_000_000, Failed(assignment_id="a", code="", reason=""))

    assert evaluated_s == pytest.approx(0.1 + 300 / 150)
    assert failed_s == pytest.approx(1.1)


def test_pace_of_a_query_is_a_forward_pass_at_each_level() -> None:
    pi, _ = parse_devices(TWO_KINDS)
    costs = {"a": ModelCost(forward_flops=400), "b": ModelCost(forward_flops=100)}
    pace = Pace({"worker-0": pi}, costs)
    none = np.zeros(0, np.float32)

    def took_s(*levels: str) -> float:
        vectors = dict.fromkeys(levels, none)
        measured = Measured(300, none, none.astype(np.int64), vectors)
        return pace.seconds("worker-0", 0, Queried(assignment_id="a", measured=measured))

    assert took_s() == pytest.approx(0.1 + 300 / 150)
    assert took_s("b") == pytest.approx(0.1 + 300 / 150 + 300 / 600)


RECIPE = """
name = "time"
seed = 3
[model]
architecture = "mlp"
hidden = [8]
[data]
dataset = "digits"
partition = "iid"
workers = 10
[training]
epochs = 2
validation_fraction = 0.0
threads = 1
[rounds]
rounds = 4
cohort = 5
{rounds}
[evaluation]
workers = "{evaluated}"
"""


def timed(
    devices: str, rounds: str = "", evaluated: str = "none", fraction: float = 0.0
) -> list[float]:
    text = RECIPE.format(rounds=rounds, evaluated=evaluated)
    recipe = parse_recipe(text.replace("fraction = 0.0", f"fraction = {fraction}"))
    found = simulate(recipe, devices=parse_devices(devices))
    assert found.outcome == "completed"
    return [one.virtual_s or math.nan for one in found.rounds]


ALIKE = '[[profiles]]\nname = "one"\nshare = 1.0\nsamples_per_s = 10.0\n'
# 1438 training examples over ten workers are 143 or 144 each, twice.
ROUND_S = 28.8


def test_rounds_of_like_devices_last_as_long_as_the_largest_shard() -> None:
    found = timed(ALIKE)

    assert all(time_s == pytest.approx(n * ROUND_S, abs=0.25 * n) for n, time_s in _numbered(found))


def _numbered(times: list[float]) -> list[tuple[int, float]]:
    return list(enumerate(times, start=1))


def test_latency_counts_for_each_transfer() -> None:
    quick_s = timed(ALIKE)
    late_s = timed(ALIKE + "latency_s = 10.0\n")

    assert [b - a for a, b in zip(quick_s, late_s, strict=True)] == pytest.approx([20, 40, 60, 80])


def test_evaluation_by_workers_takes_its_time() -> None:
    without_s = timed(ALIKE, "", "none")
    evaluated_s = timed(ALIKE + "latency_s = 0.0\n", "", "all", fraction=0.2)

    assert evaluated_s[0] < without_s[0]  # fewer examples are trained on
    assert evaluated_s[1] - evaluated_s[0] > evaluated_s[0]  # the workers' evaluation in between


UNEQUAL = """
[[profiles]]
name = "fast"
count = 6
samples_per_s = 100.0
[[profiles]]
name = "slow"
count = 4
samples_per_s = 1.0
"""


def test_stragglers_expire_at_the_deadline_as_on_devices() -> None:
    text = RECIPE.format(rounds="quorum = 1\ndeadline_s = 60.0", evaluated="none")
    recipe = parse_recipe(text.replace("epochs = 2", "epochs = 2\npartial_work = false"))
    slow = {
        worker
        for worker, profile in assign(
            parse_devices(UNEQUAL), FLEET, derive(recipe.seed, "devices")
        ).items()
        if profile.name == "slow"
    }

    found = simulate(recipe, devices=parse_devices(UNEQUAL))

    assert found.outcome == "completed"
    everybody = simulate(recipe)
    for late, all_of_it in zip(found.rounds, everybody.rounds, strict=True):
        assert set(late.workers) == set(all_of_it.workers) - slow
    ends = [one.virtual_s or math.nan for one in found.rounds]
    lasted = [b - a for a, b in zip([0.0, *ends], ends, strict=False)]
    for one, seconds in zip(everybody.rounds, lasted, strict=True):
        assert seconds == pytest.approx(60.0 if set(one.workers) & slow else 2.88, abs=0.05)


def test_over_selected_workers_win_by_their_speed() -> None:
    recipe = parse_recipe(RECIPE.format(rounds="over_select = 5", evaluated="none"))
    devices = parse_devices(UNEQUAL)
    kinds = assign(devices, FLEET, derive(recipe.seed, "devices"))

    found = simulate(recipe, devices=devices)

    for one in found.rounds:
        assert {kinds[worker].name for worker in one.workers} == {"fast"}


def test_run_without_profiles_has_no_virtual_time() -> None:
    recipe = parse_recipe(RECIPE.format(rounds="", evaluated="none"))

    assert [one.virtual_s for one in simulate(recipe).rounds] == [None] * 4


def test_forward_flops_counts_what_a_dense_network_multiplies() -> None:
    recipe = parse_recipe(RECIPE.format(rounds="", evaluated="none"))

    assert forward_flops(card_of(recipe)) == 2 * (64 * 8 + 8 * 10)
