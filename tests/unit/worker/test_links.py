from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_worker.links import LEAST_BYTES, NEWEST, Link

LARGE = st.integers(LEAST_BYTES + 1, 1 << 40)
TIMES = st.floats(1e-3, 1e4)


@given(st.lists(st.tuples(LARGE, TIMES), min_size=1, max_size=20))
def test_link_is_between_its_slowest_and_its_fastest_transfer(
    transfers: list[tuple[int, float]],
) -> None:
    link = Link()
    for moved_bytes, took_s in transfers:
        link.note(moved_bytes, took_s)

    rates = [moved_bytes / took_s for moved_bytes, took_s in transfers]
    assert min(rates) * (1 - 1e-9) <= link.bytes_per_s <= max(rates) * (1 + 1e-9)


def test_link_follows_the_newest_transfers() -> None:
    link = Link()
    link.note(1_000_000, 1.0)
    link.note(2_000_000, 1.0)

    assert link.bytes_per_s == pytest.approx(1e6 + NEWEST * 1e6)
    assert link.takes_s(2_600_000) == pytest.approx(2.0)


@pytest.mark.parametrize(("moved_bytes", "took_s"), [(LEAST_BYTES, 1.0), (0, 1.0), (1 << 20, 0.0)])
def test_link_learns_nothing_from_what_says_nothing(moved_bytes: int, took_s: float) -> None:
    link = Link()
    link.note(moved_bytes, took_s)

    assert (link.bytes_per_s, link.takes_s(1 << 30)) == (0.0, 0.0)
