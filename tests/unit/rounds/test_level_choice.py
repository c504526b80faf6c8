from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.rounds.level_choice import MARGIN, LevelBook
from fedfleet.rounds.level_facts import LevelSize, Speed, Taken, Told, without_levels
from fedfleet.wire.weights import decode_arrays, encode_arrays

RATES = (1.0, 0.5, 0.25, 0.125, 0.0625)
NAMES = "abcde"
# A model of 40 MB whose slices shrink with the square of the rate.
SIZES = tuple(
    LevelSize(name=name, rate=rate, down_bytes=4e7 * rate**2, up_bytes=4e7 * rate**2)
    for name, rate in zip(NAMES, RATES, strict=True)
)
MB = 1 << 20


def book(target_s: float = 10.0, usual_samples: float = 100.0) -> LevelBook:
    return LevelBook(sizes=SIZES, target_s=target_s, usual_samples=usual_samples)


def told(*samples_per_s: float, **more: float) -> Told:
    """Speeds of the narrowest levels, the widest of them first."""
    names = NAMES[len(NAMES) - len(samples_per_s) :]
    speeds = {n: Speed(s, 100.0 * MB) for n, s in zip(names, samples_per_s, strict=True)}
    return Told(speeds=speeds, **more)


PI = told(2.0, 6.0, 20.0, 50.0, 100.0)


def took(level: str, seconds: float, **more: float) -> Taken:
    return Taken(worker_id="pi", level=level, seconds=seconds, samples=100.0, **more)


def test_choice_without_any_knowledge_is_the_narrowest() -> None:
    assert book().choose("pi") == "e"
    assert not book().is_measured("pi")


@pytest.mark.parametrize(
    ("target_s", "level"), [(1.0, "e"), (2.0, "d"), (5.0, "c"), (16.9, "b"), (51.0, "a")]
)
def test_choice_is_the_widest_level_that_the_probe_says_meets_the_target(
    target_s: float, level: str
) -> None:
    assert book(target_s).told("pi", PI).choose("pi") == level


def test_rounds_correct_a_speed_that_is_too_high_by_any_factor() -> None:
    boasted = told(*(speed * 1e9 for speed in (2.0, 6.0, 20.0, 50.0, 100.0)))
    before = book().told("pi", boasted)
    assert before.choose("pi") == "a"

    after = before.after([took("a", 50.0)])

    assert after.seconds("pi", "a") == pytest.approx(50.0)
    assert after.choose("pi") == "c"  # as much faster as the probe says


def test_rounds_of_any_length_are_predicted_without_overflow() -> None:
    found = book().told("pi", told(1e9, 1e9, 1e9, 1e9, 1e9))
    for level, seconds in (("a", 1e300), ("b", 1e-300), ("c", 1e300), ("a", 1e300)):
        found = found.after([took(level, seconds)])

    assert all(found.seconds("pi", level) >= 0 for level in NAMES)
    assert found.choose("pi") in NAMES


def test_choice_counts_the_link_in() -> None:
    """100 examples take 5 s at level c; 2 * 2.5 MB take 5 s more over 1 MB/s."""
    slow = replace(PI, down_bytes_per_s=1e6, up_bytes_per_s=1e6)

    assert book(9.9).told("pi", slow).choose("pi") == "d"
    assert book(10.1).told("pi", slow).choose("pi") == "c"


def test_choice_counts_the_samples_and_epochs_that_a_worker_trains() -> None:
    twice = replace(book(10.0), epochs=2.0).told("pi", PI)
    more = book().told("pi", PI).after([replace(took("c", 50.0), samples=1000.0)])

    assert twice.choose("pi") == "c"
    assert replace(twice, target_s=9.9).choose("pi") == "d"
    assert more.choose("pi") == "e"


def test_choice_takes_the_mean_of_the_others_for_samples_that_nobody_reported() -> None:
    others = [Taken(worker_id=name, level="e", seconds=1.0, samples=1000.0) for name in "xy"]

    assert book().told("pi", PI).after(others).choose("pi") == "e"
    assert book(usual_samples=math.nan).told("pi", PI).choose("pi") == "e"


def test_choice_leaves_memory_for_others() -> None:
    tight = told(2.0, 6.0, 20.0, 50.0, 100.0, memory_bytes=120.0 * MB)
    roomy = replace(tight, memory_bytes=130.0 * MB)

    assert book(1000.0).told("pi", tight).choose("pi") == "e"
    assert book(1000.0).told("pi", roomy).choose("pi") == "a"


def test_choice_avoids_what_ran_out_of_memory_in_the_probe() -> None:
    """The probe goes from narrow to wide and stops there."""
    out_of_memory = book(1000.0).told("pi", told(0.0, 20.0, 50.0, 100.0))

    assert out_of_memory.choose("pi") == "c"
    assert out_of_memory.seconds("pi", "a") == math.inf


def test_choice_guesses_a_level_that_the_probe_had_no_time_for() -> None:
    """A quarter of the speed for twice the width: 400 s at level c."""
    short = told(1.0, 100.0)

    assert book(401.0).told("pi", short).choose("pi") == "c"
    assert book(399.0).told("pi", short).choose("pi") == "d"


def test_choice_guesses_a_narrow_level_from_a_wider_one() -> None:
    only_wide = Told(speeds={"a": Speed(10.0)})

    assert book(9.0).told("pi", only_wide).seconds("pi", "e") == 10.0


def test_out_of_memory_lowers_the_level_for_the_rest_of_the_run() -> None:
    made = book(1000.0).told("pi", PI).exhausted("pi", "a")

    assert made.choose("pi") == "b"
    assert made.exhausted("pi", "b").choose("pi") == "c"
    assert made.exhausted("pi", "b").exhausted("pi", "a").choose("pi") == "c"
    assert made.after([took("b", 1.0)] * 50).choose("pi") == "b"
    assert made.exhausted("pi", "e").choose("pi") == "e"


def test_round_that_took_longer_than_predicted_lowers_every_level() -> None:
    """Three times as slow as its probe said: 15 s at level c, 6 s at level d."""
    made = book(10.0).told("pi", PI).after([took("c", 15.0)])

    assert made.choose("pi") == "d"
    assert made.seconds("pi", "d") == pytest.approx(6.0)


def test_round_that_was_quick_raises_the_level() -> None:
    made = book(10.0).told("pi", PI).after([took("c", 2.5)])

    assert made.seconds("pi", "b") == pytest.approx(100 / 6 / 2)
    assert made.choose("pi") == "b"


def test_level_is_kept_where_another_would_be_as_good() -> None:
    """Level c takes 5 s: kept up to 5.75 s, taken again from below only at 4.25 s."""
    made = book(10.0).told("pi", PI).after([took("c", 5.0)])

    assert replace(made, target_s=5.0 / (1 + MARGIN) + 0.01).choose("pi") == "c"
    assert replace(made, target_s=5.0 / (1 + MARGIN) - 0.01).choose("pi") == "d"
    below = made.after([took("d", 2.0)])
    assert replace(below, target_s=5.0 / (1 - MARGIN) - 0.01).choose("pi") == "d"
    assert replace(below, target_s=5.0 / (1 - MARGIN) + 0.01).choose("pi") == "c"


def test_worker_without_a_probe_is_raised_by_what_its_rounds_took() -> None:
    """A level twice as wide is thought to take four times as long, as long as nobody tried."""
    made = book(10.0).after([took("e", 1.0)])

    assert made.is_measured("pi")
    assert made.choose("pi") == "d"
    assert made.after([took("d", 2.0)]).seconds("pi", "c") == pytest.approx(8.0)


def test_probe_that_comes_after_rounds_takes_the_place_of_the_guess() -> None:
    made = book(5.5).after([took("e", 1.0)]).told("pi", PI)

    assert made.choose("pi") == "c"


def test_partial_work_counts_as_what_the_whole_would_have_taken() -> None:
    made = book(10.0).told("pi", PI).after([took("b", 5.0, share=0.25)])

    assert made.seconds("pi", "b") == pytest.approx(20.0)


def test_partial_work_does_not_stretch_the_transfers() -> None:
    slow = replace(PI, down_bytes_per_s=1e6, up_bytes_per_s=1e6)
    made = book(30.0).told("pi", slow).after([took("c", 7.5, share=0.5)])

    assert made.seconds("pi", "c") == pytest.approx(10.0)


def test_worker_that_was_late_is_lowered_only_where_that_says_something() -> None:
    made = book(10.0).told("pi", PI)

    assert made.after([took("c", 20.0, is_late=True)]).choose("pi") == "d"
    assert made.after([took("c", 3.0, is_late=True)]).choose("pi") == "c"


def test_level_that_was_too_slow_is_tried_again_later_and_later() -> None:
    made = book(10.0).told("pi", PI)
    tries = []
    for number in range(200):
        level = made.choose("pi")
        # At level c this device is slower than its probe and its other levels say.
        seconds = {"c": 20.0, "d": 2.0, "e": 1.0}[level]
        if level == "c":
            tries.append(number)
        made = made.after([took(level, seconds)])

    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert tries[0] == 0
    assert len(gaps) >= 2
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(gaps))


def test_device_that_was_slow_for_a_while_comes_back() -> None:
    made = book(10.0).told("pi", PI)
    levels = []
    for number in range(60):
        level = made.choose("pi")
        levels.append(level)
        slow = 6.0 if 10 <= number < 20 else 1.0
        predicted = 100.0 / PI.speeds[level].samples_per_s
        made = made.after([took(level, predicted * slow)])

    assert levels[9] == "c"
    assert levels[19] == "e"
    assert levels[-1] == "c"


positive = st.floats(1e-3, 1e3)
noise = st.floats(0.95, 1.05)


@given(
    true_s=st.lists(positive, min_size=5, max_size=5).map(lambda s: sorted(s, reverse=True)),
    probed=st.none() | st.lists(positive, min_size=5, max_size=5).map(sorted),
    noises=st.lists(noise, min_size=40, max_size=40),
)
def test_levels_do_not_flap(
    true_s: Sequence[float], probed: Sequence[float] | None, noises: Sequence[float]
) -> None:
    """Whatever a probe said, a device whose rounds vary by 5 % settles: a level that was too slow
    is tried once more after 16 rounds, then after 32."""
    made = book(10.0)
    if probed:
        made = made.told("pi", told(*probed))
    levels = []
    for factor in noises:
        level = made.choose("pi")
        levels.append(level)
        made = made.after([took(level, true_s[NAMES.index(level)] * factor)])

    changes = sum(a != b for a, b in itertools.pairwise(levels))
    assert changes <= 2 * (len(NAMES) - 1) * (1 + math.log2(1 + len(levels) / 16))
    for level in NAMES:
        tried = [i for i, one in enumerate(levels) if one == level]
        left = [i for i in tried if i + 1 < len(levels) and levels[i + 1] > level]
        for number, (earlier, later) in enumerate(itertools.pairwise(left)):
            assert later - earlier >= 16 * 2**number


@given(
    true_s=st.lists(positive, min_size=5, max_size=5).map(lambda s: sorted(s, reverse=True)),
    probed=st.lists(positive, min_size=5, max_size=5).map(sorted),
)
def test_levels_settle_on_one_that_meets_the_target_if_any_does(
    true_s: Sequence[float], probed: Sequence[float]
) -> None:
    made = book(10.0).told("pi", told(*probed))
    for _ in range(15):
        level = made.choose("pi")
        made = made.after([took(level, true_s[NAMES.index(level)])])

    level = made.choose("pi")
    # Unless it is about to try one that it has not measured yet.
    if not math.isnan(made.known["pi"].biases[NAMES.index(level)]):
        assert true_s[NAMES.index(level)] <= 10.0 * (1 + MARGIN) or level == "e"


@given(target_s=positive, faster=st.floats(1.0, 100.0))
def test_faster_worker_never_gets_a_narrower_level(target_s: float, faster: float) -> None:
    speeds = [speed.samples_per_s * faster for speed in PI.speeds.values()]
    made = book(target_s).told("pi", PI).told("fast", told(*speeds))

    assert made.choose("fast") <= made.choose("pi")


number = st.floats(0, 1e9)
facts = st.builds(
    Told,
    speeds=st.dictionaries(st.sampled_from(NAMES), st.builds(Speed, number, number)),
    memory_bytes=number,
    down_bytes_per_s=number,
    up_bytes_per_s=number,
)
rounds = st.builds(
    Taken,
    worker_id=st.sampled_from(["w-0", "w.1", "_"]),
    level=st.sampled_from(NAMES),
    seconds=number,
    samples=number | st.just(math.nan),
    share=st.floats(0.01, 1.0),
    is_late=st.booleans(),
)


@given(st.dictionaries(st.sampled_from(["w-0", "w.1", "x"]), facts), st.lists(rounds, max_size=8))
def test_book_comes_back_from_the_store_as_it_was(
    said: dict[str, Told], taken: list[Taken]
) -> None:
    made = book().after(taken)
    for worker_id, one in said.items():
        made = made.told(worker_id, one).exhausted(worker_id, "b")

    memory = decode_arrays(encode_arrays(made.to_memory())) if made.known else {}
    back = book().from_memory(memory)

    assert back.to_memory().keys() == made.to_memory().keys()
    for key, array in made.to_memory().items():
        np.testing.assert_array_equal(back.to_memory()[key], array)
    told = {name: known.told for name, known in made.known.items()}
    assert {name: known.told for name, known in back.known.items()} == told
    assert [back.choose(name) for name in back.known] == [made.choose(name) for name in back.known]
    assert without_levels({**memory, "momentum": np.ones(2)}).keys() == {"momentum"}
