from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.rounds.history import History, Seen
from fedfleet.rounds.oort import (
    OortOptions,
    exploration,
    pace,
    preferred_duration_s,
    scores,
    select_oort,
)

seeds = st.integers(0, 2**63 - 1)
NAMES = [f"w{i}" for i in range(20)]


def seen(utility: float, *, last: float = 1.0, duration_s: float = 0.0, asked: float = 1) -> Seen:
    return Seen(asked, asked, last, 1.0, utility / 10, 10.0, duration_s)


def known(utilities: dict[str, float], **changes: float) -> History:
    return History({name: seen(one, **changes) for name, one in utilities.items()}, (0.0,))


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 60), seeds)
def test_selection_is_a_sorted_subset_of_the_size(
    size: int, explored: int, round: int, seed: int
) -> None:
    history = known({name: float(i) for i, name in enumerate(NAMES[:explored])})
    options = OortOptions(blacklist_after=2)

    chosen = select_oort(NAMES, size, options, history, round, seed)

    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == size
    assert set(chosen) <= set(NAMES)
    assert chosen == select_oort(NAMES[::-1], size, options, history, round, seed)


@given(st.integers(1, 60), seeds)
def test_cohort_explores_its_share_while_there_are_new_workers(round: int, seed: int) -> None:
    history = known({name: 1.0 + i for i, name in enumerate(NAMES[:10])})
    share = max(0.9 * 0.95**round, 0.2)

    chosen = select_oort(NAMES, 10, OortOptions(), history, round, seed)

    assert exploration(OortOptions(), round) == share
    assert len(set(chosen) - history.seen.keys()) == 10 - int(10 * (1 - share) + 1e-9)


def test_cohort_is_of_known_workers_once_all_are_known() -> None:
    history = known(dict.fromkeys(NAMES, 1.0))

    assert len(select_oort(NAMES, 8, OortOptions(), history, 2, 5)) == 8


def test_score_is_the_authors() -> None:
    """By hand: utilities 10, 20, 40 in round 5; the least is taken .999 times."""
    history = History(
        {"a": seen(10.0, last=1), "b": seen(20.0, last=4), "c": seen(40.0, last=2)}, (0.0,) * 4
    )

    found = scores(["a", "b", "c"], OortOptions(), history, 5)

    spread = 40 - 9.99
    for name, utility, last in (("a", 10, 1), ("b", 20, 4), ("c", 40, 2)):
        bonus = math.sqrt(0.1 * math.log(5) / last)
        assert found[name] == pytest.approx((utility - 9.99) / spread + bonus, rel=1e-12)


def test_score_clips_the_largest_utilities() -> None:
    utilities = {f"w{i}": 1.0 + i for i in range(100)} | {"w99": 1e6}

    found = scores(list(utilities), OortOptions(), known(utilities), 2)

    # The 98th percentile of a hundred is the 99th of them: 99, not a million.
    assert found["w99"] == found["w98"]


def test_slow_workers_lose_by_the_square_of_how_slow_they_are() -> None:
    history = History({"a": seen(10.0, duration_s=2.0), "b": seen(10.0, duration_s=6.0)}, (0.0,))

    found = scores(["a", "b"], OortOptions(preferred=10), history, 2)

    assert found["b"] == pytest.approx(found["a"] / 9)
    neutral = scores(["a", "b"], OortOptions(penalty=0.0), history, 2)
    assert neutral["a"] == neutral["b"]


def test_durations_that_nobody_measured_change_nothing() -> None:
    history = known({"a": 10.0, "b": 20.0})

    assert preferred_duration_s(OortOptions(), history, 2) == math.inf


def test_worker_that_failed_so_far_is_worth_what_time_adds() -> None:
    history = History({"a": seen(10.0, last=3), "b": Seen(asked=1, last=2.0)}, (0.0,) * 3)

    found = scores(["a", "b"], OortOptions(), history, 4)

    assert found["b"] == pytest.approx(math.sqrt(0.1 * math.log(4) / 2))


def test_workers_below_the_cut_off_are_not_drawn() -> None:
    # All of one age: scores 1.0 (ten of them) and .26 and less (ten).
    utilities = {name: 100.0 if i < 10 else 1.0 for i, name in enumerate(NAMES)}
    history = known(utilities)

    for seed in range(50):
        assert set(select_oort(NAMES, 5, OortOptions(), history, 2, seed)) <= set(NAMES[:10])


def test_workers_above_the_cut_off_are_drawn_by_their_scores() -> None:
    history = History({"a": seen(100.0), "b": seen(80.0), "c": seen(1.0)}, (0.0,))
    found = scores(["a", "b", "c"], OortOptions(), history, 2)

    drawn = Counter(
        select_oort(["a", "b", "c"], 1, OortOptions(), history, 2, seed)[0] for seed in range(4000)
    )

    # With a cohort of one the edge is the second best.
    share = found["a"] / (found["a"] + found["b"])
    assert set(drawn) == {"a", "b"}
    assert abs(drawn["a"] - 4000 * share) < 5 * math.sqrt(4000 * share * (1 - share))


@pytest.mark.parametrize(
    ("utility", "round", "expected"),
    [
        ((), 1, 10.0),
        ((5.0,) * 4, 4, 10.0),  # entries 0 5 | 5 5: 10 after 5 is neither flat nor sharp
        ((5.0,) * 6, 6, 15.0),  # 5 5 | 5 5: flat
        ((5.0,) * 8, 8, 20.0),
        ((1.0, 1.0, 1.0, 9.0, 9.0), 6, 5.0),  # entries 1 1 | 9 9: six times and more
        ((1.0,) * 200, 200, 100.0),
    ],
)
def test_pacer_moves_up_when_utility_is_flat_and_down_when_it_jumps(
    utility: tuple[float, ...], round: int, expected: float
) -> None:
    assert pace(OortOptions(pacer_step=2), utility, round) == expected


def test_blacklisted_workers_are_drawn_only_when_others_do_not_suffice() -> None:
    history = History(
        {name: seen(100.0, asked=5 if i < 12 else 1) for i, name in enumerate(NAMES)}, (0.0,)
    )
    options = OortOptions(blacklist_after=5)

    assert set(select_oort(NAMES, 8, options, history, 2, 1)) == set(NAMES[12:])
    assert set(select_oort(NAMES, 10, options, history, 2, 1)) >= set(NAMES[12:])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exploration": 1.5}, r"exploration = 1.5: must be in \[0, 1\]"),
        ({"exploration_decay": 0.0}, r"exploration_decay = 0.0: must be in \(0, 1\]"),
        ({"cut_off": float("nan")}, r"cut_off = nan: must be in \(0, 1\]"),
        ({"penalty": -1.0}, "penalty = -1.0: must be from 0 to 100"),
        ({"preferred": 0.0}, "preferred = 0.0: must be above 0 and at most 100"),
        ({"pacer_step": 0}, "pacer_step = 0: must be 1 or more"),
        ({"blacklist_after": 0}, "blacklist_after = 0: must be 1 or more"),
    ],
)
def test_options_name_field_value_and_what_is_allowed(changes: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        OortOptions(**changes)  # type: ignore[arg-type]  # a table of the fields
