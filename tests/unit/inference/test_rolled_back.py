"""What was rolled back answers nobody any more, whatever else is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from detectors import CLASSIFIER, servable
from follower_bench import BROKEN, UNFIT, Bench, served_two
from serving import publish

from fedfleet.errors import StoreUnavailable
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet_inference_api import rolled_back
from fedfleet_inference_api.following import Target
from fedfleet_inference_api.rolled_back import RolledBack
from fedfleet_inference_api.servable import Servable


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as opened:
        yield opened


def started(store: Store, versions: int, **course: object) -> Bench:
    """A follower that has just been started where there are so many versions."""
    for seed in range(versions):
        publish(store, seed)
    return Bench(store, **course)


def test_version_is_left_until_its_alias_is_set_anew_and_not_because_another_one_is_read():
    first, second = (servable(CLASSIFIER, number).record for number in (1, 2))
    left = RolledBack()
    left.read("production", Target(second, 7))
    left.read("candidate", Target(first, 3))
    left.add(first, "it failed")

    def held() -> list[bool]:
        return [left.holds(first, alias) for alias in ("production", "candidate")]

    assert held() == [True, True]
    assert not left.holds(second, "production")
    assert left.reason(first, "candidate") == "it failed"
    assert left.reason(second, "candidate") == ""
    assert not left.read("candidate", Target(first, 3))
    assert not left.read("production", Target(second, 8))
    assert held() == [True, True]
    assert left.read("candidate", Target(first, 4))
    assert not left.read("candidate", Target(first, 4))  # it is no news any more
    assert held() == [True, False]
    left.add(first, "it failed again")
    assert held() == [True, True]
    assert left.read("production", Target(first, 9))
    assert held() == [False, True]


def test_versions_that_are_left_are_bounded(monkeypatch):
    monkeypatch.setattr(rolled_back, "MOST_LEFT", 2)
    records = [servable(CLASSIFIER, number).record for number in (1, 2, 3)]
    left = RolledBack()
    for record in records:
        left.add(record, "it failed")

    assert [left.holds(record, "latest") for record in records] == [False, True, True]


def test_stand_in_that_fails_is_left_for_the_good_version_before_it(store):
    bench = started(store, 3)
    assert bench.serves() == 3
    bench.fails()
    assert bench.serves() == 2

    bench.fails()
    assert bench.serves() == 1
    assert bench.refused() == [2, 3]
    assert bench.counted("rolled_back") == 2
    failure = bench.follower.following.failure
    assert "version 3 (round 3) was rolled back" in failure
    assert "version 2" not in failure  # it is shown among the refused ones

    bench.now_s += 1000
    publish(store, 9, aliases=("other",))  # an event: everything is looked at anew
    assert bench.serves() == 1
    assert bench.loads == [3, 2, 1]


def test_stand_in_for_a_version_that_cannot_be_loaded_is_left_at_once_when_it_fails(store):
    bench = started(store, 3)
    bench.unfit = {3}
    assert bench.serves() == 2
    bench.fails()

    assert bench.serves() == 1
    bench.unfit = set()
    bench.now_s += 100
    publish(store, 9, aliases=("other",))
    assert bench.serves() == 3
    assert bench.refused() == [2]


def test_only_version_left_that_fails_again_is_counted_once(store):
    bench = started(store, 1)
    bench.serves()

    for _ in range(8):
        assert bench.fails() is None
        assert bench.serves() == 1

    assert bench.counted("rolled_back") == 1
    assert bench.refused() == [1]


def test_version_that_was_left_is_no_way_back_from_the_next_one(store):
    bench = started(store, 1)
    bench.serves()
    bench.fails()
    publish(store, 2)
    assert bench.serves() == 2
    assert bench.follower.following.previous is None  # nor does it keep the memory

    assert bench.fails() is None
    assert bench.serves() == 2  # the better of two bad ones: it is what the alias says


def test_stand_in_is_served_again_when_an_alias_is_set_to_it(store):
    bench = started(store, 3)
    bench.serves()
    bench.fails()
    bench.serves()
    bench.fails()
    assert bench.serves() == 1

    store.registry.set_alias("digits", "latest", 2)

    assert bench.serves() == 2
    assert bench.follower.following.failure == ""
    assert 2 not in bench.refused()


def test_version_that_is_tried_again_has_its_first_time_anew(store):
    bench = started(store, 1, rollback_failures=2)
    bench.serves()
    bench.fails(BROKEN)
    bench.fails(BROKEN)
    assert bench.refused() == [1]

    store.registry.set_alias("digits", "latest", 1)
    bench.serves()
    assert bench.refused() == []
    bench.fails(BROKEN)
    assert bench.refused() == []
    bench.fails(BROKEN)
    assert bench.refused() == [1]


def test_search_for_a_stand_in_is_made_ever_more_rarely(store):
    bench = started(store, 2)
    bench.unfit = {1}
    bench.serves()
    bench.fails()
    tried_at_s = []
    for _ in range(40):
        before = len(bench.loads)
        assert bench.serves() == 2
        if len(bench.loads) > before:
            tried_at_s.append(bench.now_s - 100)
        bench.now_s += 1

    assert tried_at_s == [0, 1, 3, 7, 15, 31]
    assert bench.loads == [2, *[1] * 6]


# Under which alias it answers.


def test_version_that_is_gone_back_to_answers_under_no_alias(store):
    bench = served_two(store)
    kept = bench.follower.following.previous
    bench.fails()
    rolled_back_to = bench.follower.following.current
    bench = served_two(store)
    bench.follower.hold_previous()
    held = bench.follower.following

    assert [one.alias for one in (kept, rolled_back_to, held.current)] == ["", "", ""]
    assert held.previous.alias == "latest"


def test_stand_in_answers_under_the_alias_that_is_moved_to_it_and_its_first_time_goes_on(store):
    bench = started(store, 2, rollback_failures=2)
    bench.unfit = {2}
    assert bench.serves() == 1
    stand_in = bench.follower.following.current
    assert stand_in.alias == ""
    bench.fails(BROKEN)

    store.registry.set_alias("digits", "latest", 1)
    assert bench.serves() == 1
    assert bench.follower.following.current.alias == "latest"
    assert bench.counted("swapped") == 0
    bench.follower.failed(stand_in, BROKEN)  # who has begun with it counts as well
    assert bench.refused()[0] == 1


# The candidate.


def test_version_rolled_back_from_production_is_no_candidate_until_somebody_says_so(store):
    bench = Bench(store, alias="production", canary_alias="candidate")
    publish(store, 1, aliases=("production",))
    publish(store, 2, aliases=("candidate",))
    bench.serves()
    store.registry.set_alias("digits", "production", 2)  # the candidate's alias stays
    assert bench.serves() == 2
    bench.fails()

    for _ in range(2):
        publish(store, 9, aliases=())  # an event
        assert bench.serves() == 1
        assert bench.follower.following.candidate is None
    assert bench.loads == [1, 2]

    store.registry.set_alias("digits", "candidate", 2)
    assert bench.serves() == 1
    assert bench.follower.following.candidate.record.number == 2


def test_candidate_that_is_dropped_stands_in_for_nobody(store):
    publish(store, 1, aliases=())
    publish(store, 2, aliases=("candidate",))
    publish(store, 3, aliases=("production",))
    bench = Bench(store, alias="production", canary_alias="candidate")
    assert bench.serves() == 3
    bench.follower.failed(bench.follower.following.candidate, UNFIT)
    assert bench.counted("candidate_dropped") == 1
    assert bench.counted("rolled_back") == 0

    bench.fails()

    assert bench.serves() == 1
    assert bench.counted("rolled_back") == 1


def test_rollback_by_hand_is_counted_apart(store):
    bench = served_two(store)
    bench.follower.hold_previous()

    assert (bench.counted("held"), bench.counted("rolled_back")) == (1, 0)


# What is said of it.


def test_version_that_was_refused_for_a_moment_is_not_shown_as_refused_when_it_is_served(store):
    bench = started(store, 1)
    bench.serves()
    load, fails = bench.follower._load, [True]

    def away_once(record: VersionRecord, alias: str) -> Servable:
        if fails:
            fails.clear()
            raise StoreUnavailable("away for a moment")
        return load(record, alias)

    bench.follower._load = away_once
    publish(store, 2)
    assert bench.serves() == 1
    assert bench.refused() == [2]
    bench.now_s += 2

    assert bench.serves() == 2
    assert bench.refused() == []


def test_following_again_does_not_hide_that_a_version_is_refused(store):
    bench = started(store, 1)
    bench.serves()
    publish(store, 2)
    bench.unfit = {2}
    bench.serves()
    bench.follower.resume()
    assert "version 2 could not be loaded" in bench.follower.following.failure
    bench.serves()
    assert "version 2 could not be loaded" in bench.follower.following.failure

    publish(store, 3)
    bench.serves()
    publish(store, 4)
    bench.serves()
    bench.fails()
    bench.follower.resume()
    bench.serves()
    assert "version 4 (round 4) was rolled back" in bench.follower.following.failure


def test_end_of_a_held_rollback_says_again_why_the_newest_version_is_refused(store):
    bench = served_two(store)
    publish(store, 3)
    bench.unfit = {3}
    bench.serves()
    bench.follower.hold_previous()
    assert bench.follower.following.failure == ""
    bench.follower.resume()

    assert bench.serves() == 1
    assert "version 3 could not be loaded" in bench.follower.following.failure
