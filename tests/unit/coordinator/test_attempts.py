from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import LimitExceeded
from fedfleet_coordinator.attempts import MAX_KEYS, Attempts, Turns, host_of


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def refused(attempts: Attempts, key: str = "a") -> bool:
    try:
        attempts.check(key)
    except LimitExceeded:
        return True
    return False


def test_attempts_are_refused_beyond_the_most_and_allowed_again_in_time() -> None:
    clock = Clock()
    attempts = Attempts(3, 10.0, clock)
    for _ in range(3):
        assert not refused(attempts)
        attempts.count("a")

    with pytest.raises(LimitExceeded, match="try again in 10 s"):
        attempts.check("a")
    assert not refused(attempts, "b")

    clock.now_s += 10.0
    assert not refused(attempts)
    attempts.count("a")
    assert refused(attempts)


@given(
    most=st.integers(1, 5),
    waits_s=st.lists(st.floats(0, 40, allow_nan=False), min_size=1, max_size=60),
)
def test_attempts_never_pass_the_rate(most: int, waits_s: list[float]) -> None:
    clock = Clock()
    attempts = Attempts(most, 10.0, clock)
    began_s, passed = clock.now_s, 0
    for wait_s in waits_s:
        clock.now_s += wait_s
        if not refused(attempts):
            attempts.count("a")
            passed += 1
        assert passed <= most + (clock.now_s - began_s) / 10.0 + 1e-6


def test_attempts_of_many_names_take_bounded_room() -> None:
    attempts = Attempts(1, 10.0, Clock())
    for number in range(MAX_KEYS + 10):
        attempts.count(str(number))

    assert len(attempts._until) == MAX_KEYS
    assert refused(attempts, str(MAX_KEYS + 9))
    assert not refused(attempts, "0")


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B::1%5D:4711", "::"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::"),
        ("ipv6:[::ffff:192.0.2.1]:4711", "192.0.2.1"),
        ("unix:/run/socket", "unix"),
        ("", ""),
    ],
)
def test_host_is_what_a_caller_cannot_choose(peer: str, host: str) -> None:
    assert host_of(peer) == host


async def test_turns_are_one_after_the_other_for_each_key() -> None:
    turns, running, most = Turns(), {"a": 0, "b": 0}, {"a": 0, "b": 0}

    async def take(key: str) -> None:
        async with turns.of(key):
            running[key] += 1
            most[key] = max(most[key], running[key])
            for _ in range(3):
                await asyncio.sleep(0)
            both.append(all(running.values()))
            running[key] -= 1

    both: list[bool] = []
    await asyncio.gather(*(take(key) for key in "ababab"))

    assert most == {"a": 1, "b": 1}
    assert any(both)
    assert not turns._locks
