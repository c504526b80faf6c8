from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import header

from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.history import History
from fedfleet.rounds.power_of_choice import (
    PowerOfChoiceOptions,
    last_losses,
    nominate,
    take_largest,
)
from fedfleet.rounds.selection import Ballot, select

NAMES = [f"w{i}" for i in range(12)]
seeds = st.integers(0, 2**63 - 1)


def told(losses: dict[str, float], samples: dict[str, float] | None = None) -> History:
    headers = [
        header(
            worker_id=name,
            weight=(samples or {}).get(name, 10.0),
            metrics={"train_loss": loss},
        )
        for name, loss in losses.items()
    ]
    return History().after(1, losses, headers, {})


def draw(candidates: int, size: int, seed: int, history: History) -> tuple[str, ...]:
    rounds = RoundsConfig(
        rounds=9,
        cohort=size,
        selection="power-of-choice",
        options=PowerOfChoiceOptions(candidates=candidates),
    )
    ballot = Ballot(names=NAMES, size=size, round=2, history=history, run_seed=1, draw_seed=seed)
    return select(rounds, ballot).workers


@given(st.integers(1, 12), seeds)
def test_as_many_candidates_as_the_cohort_is_a_uniform_draw(size: int, seed: int) -> None:
    history = told({name: float(i) for i, name in enumerate(NAMES)})
    uniform = RoundsConfig(rounds=9, cohort=size)
    ballot = Ballot(names=NAMES, size=size, run_seed=1, draw_seed=seed)

    assert draw(size, size, seed, history) == select(uniform, ballot).workers


@given(st.integers(1, 12), seeds)
def test_all_as_candidates_is_the_greedy_choice(size: int, seed: int) -> None:
    history = told({name: float(i) for i, name in enumerate(NAMES)})

    assert draw(12, size, seed, history) == tuple(sorted(NAMES[12 - size :]))


@given(st.integers(1, 6), st.integers(6, 12), seeds)
def test_cohort_has_the_largest_losses_among_the_candidates(
    size: int, candidates: int, seed: int
) -> None:
    losses = {name: float(i % 5) for i, name in enumerate(NAMES)}
    history = told(losses)

    drawn = draw(candidates, size, seed, history)

    nominated = nominate(NAMES, candidates, history, seed)
    least = min(losses[name] for name in drawn)
    assert set(drawn) <= set(nominated)
    assert all(losses[name] <= least for name in set(nominated) - set(drawn))


def test_worker_that_was_never_seen_goes_first_and_one_that_failed_is_the_middle() -> None:
    history = told({"a": 1.0, "b": 2.0, "c": 9.0}).after(2, ["failed"], [], {})

    losses = last_losses(["a", "b", "c", "failed", "new"], history)

    assert losses == {"a": 1.0, "b": 2.0, "c": 9.0, "failed": 2.0, "new": math.inf}


def test_candidates_are_drawn_by_their_samples() -> None:
    history = told(dict.fromkeys(NAMES, 1.0), {"w0": 1000.0})

    first = [nominate(NAMES, 1, history, seed)[0] for seed in range(300)]

    assert first.count("w0") > 250


def test_equal_losses_are_taken_by_chance() -> None:
    assert len({take_largest(dict.fromkeys("abcd", 1.0), 2, seed) for seed in range(100)}) == 6


@pytest.mark.parametrize("candidates", [0, 1_000_001])
def test_options_refuse_no_candidates_or_too_many(candidates: int) -> None:
    with pytest.raises(ValueError, match=rf"candidates = {candidates}: must be from 1"):
        PowerOfChoiceOptions(candidates=candidates)
