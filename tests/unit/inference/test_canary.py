from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.canary import CANARY, SHADOW, falls_in

IDS = [f"request-{number}" for number in range(4000)]


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_request_of_a_share_is_of_every_larger_one(request_id, left, right):
    small, large = sorted((left, right))

    assert falls_in(small, CANARY, request_id) <= falls_in(large, CANARY, request_id)
    assert not falls_in(0.0, CANARY, request_id)
    assert falls_in(1.0, CANARY, request_id)


def test_share_is_as_large_as_asked_for():
    found = sum(falls_in(0.25, CANARY, request_id) for request_id in IDS) / len(IDS)

    assert abs(found - 0.25) < 0.03


def test_shares_of_two_purposes_are_independent():
    both = sum(
        falls_in(0.5, CANARY, request_id) and falls_in(0.5, SHADOW, request_id)
        for request_id in IDS
    )

    assert abs(both / len(IDS) - 0.25) < 0.03
