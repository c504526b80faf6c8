from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_coordinator.holds import Holds

DIGESTS = ("a", "b", "c")
MOMENT_S = 0.05
PATIENCE_S = 20.0

Step = tuple[str, str, str]


def waits(call: Callable[[], object], pool: ThreadPoolExecutor) -> Future[object]:
    """A call on another thread, which is still at it."""
    done = pool.submit(call)
    with pytest.raises(NotYet):
        done.result(MOMENT_S)
    return done


def may_delete(holds: Holds, digest: str) -> bool:
    with holds.deleting(digest) as is_free:
        return is_free


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["hold", "let_go", "end"]),
            st.sampled_from(["run", "import"]),
            st.sampled_from(DIGESTS),
        )
    )
)
def test_what_anybody_holds_is_not_deleted(steps: list[Step]) -> None:
    holds, wanted = Holds(), {digest: set[str]() for digest in DIGESTS}
    for kind, holder, digest in steps:
        if kind == "hold":
            holds.hold(holder, [digest])
            wanted[digest].add(holder)
        elif kind == "let_go":
            holds.let_go(holder, [digest])
            wanted[digest].discard(holder)
        else:
            holds.let_go(holder)
            for holders in wanted.values():
                holders.discard(holder)

        for each in DIGESTS:
            assert holds.is_held(each) == bool(wanted[each])
            assert may_delete(holds, each) == (not wanted[each])


def test_who_comes_to_hold_waits_for_a_deletion_of_the_same_bytes_alone() -> None:
    holds = Holds()
    with ThreadPoolExecutor(1) as pool:
        with holds.deleting("a") as is_free:
            assert is_free
            holds.hold("run", ["a", "b"])
            holds.settle(["b"])
            assert may_delete(holds, "c")
            settled = waits(lambda: holds.settle(["b", "a"]), pool)
        settled.result(PATIENCE_S)
    assert not may_delete(holds, "a")


def test_two_deletions_of_the_same_bytes_follow_each_other() -> None:
    holds = Holds()
    with ThreadPoolExecutor(1) as pool:
        with holds.deleting("a"):
            second = waits(lambda: may_delete(holds, "a"), pool)
            holds.hold("run", ["a"])
        assert second.result(PATIENCE_S) is False


def test_deletion_that_fails_holds_nobody_up() -> None:
    holds = Holds()
    with pytest.raises(OSError, match="disk"), holds.deleting("a"):
        raise OSError("disk")

    holds.hold("run", ["a"])
    holds.settle(["a"])


def test_bytes_that_were_held_first_are_there_whatever_is_deleted_meanwhile() -> None:
    """The promise, with as many threads as it takes to meet each order."""
    holds, there, lock = Holds(), set[str](), threading.Lock()
    rounds = 300

    def store_and_commit(holder: str) -> int:
        missing = 0
        for _ in range(rounds):
            holds.hold(holder, ["a"])
            holds.settle(["a"])
            with lock:
                there.add("a")
            with lock:  # another's deletion may have come in between, were it not held
                missing += "a" not in there
            holds.let_go(holder, ["a"])
        return missing

    def delete() -> None:
        for _ in range(rounds):
            with holds.deleting("a") as is_free:
                if is_free:
                    with lock:
                        there.discard("a")

    with ThreadPoolExecutor(4) as pool:
        storing = [pool.submit(store_and_commit, name) for name in ("run", "import")]
        deleting = [pool.submit(delete) for _ in range(2)]
        assert [one.result(PATIENCE_S) for one in storing] == [0, 0]
        for one in deleting:
            one.result(PATIENCE_S)
