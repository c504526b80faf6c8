from __future__ import annotations

import itertools
import random

import pytest

from fedfleet.rpc.retry import backoff_s


def test_backoff_draws_below_a_bound_that_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = []

    def draw(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", draw)

    list(itertools.islice(backoff_s(0.5, 3.0), 5))

    assert bounds == [(0, 0.5), (0, 1.0), (0, 2.0), (0, 3.0), (0, 3.0)]


def test_backoff_spreads_over_the_whole_bound() -> None:
    waits = [next(backoff_s(1.0)) for _ in range(500)]

    assert 0 <= min(waits) < 0.1
    assert 0.9 < max(waits) <= 1.0
