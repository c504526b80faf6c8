"""The follower step by step, on a real store, with the time in the test's hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract.store.builders import a_deed
from follower_bench import BROKEN, UNFIT, Bench, served_two
from serving import publish

from fedfleet.errors import Conflict, StoreUnavailable
from fedfleet.store.audit import verify
from fedfleet.store.open import open_store
from fedfleet.store.protocols import RegistryEvent, Store, VersionRecord
from fedfleet_inference_api.attempts import LONGEST_RETRY_S
from fedfleet_inference_api.servable import Servable


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as opened:
        yield opened


def test_follower_loads_only_the_newest_of_what_it_missed(store):
    for seed in range(5):
        publish(store, seed)
    bench = Bench(store)

    assert bench.serves() == 5
    assert bench.serves() == 5
    assert bench.loads == [5]


def test_follower_keeps_the_version_before(store):
    bench = Bench(store)
    publish(store, 1)
    bench.serves()
    publish(store, 2)

    assert bench.serves() == 2
    assert bench.follower.following.previous is not None
    assert bench.follower.following.previous.record.number == 1


def test_follower_ignores_versions_that_its_alias_does_not_name(store):
    bench = Bench(store, alias="production")
    publish(store, 1, aliases=("latest", "production"))
    assert bench.serves() == 1

    publish(store, 2)

    assert bench.serves() == 1
    assert bench.loads == [1]


def test_follower_tries_a_bad_version_again_ever_more_rarely(store):
    publish(store, 1, data=b"no safetensors")
    bench = Bench(store)
    tried_at_s = []
    for _ in range(200):
        before = len(bench.loads)
        assert bench.serves() is None
        if len(bench.loads) > before:
            tried_at_s.append(bench.now_s - 100)
        bench.now_s += 1

    assert tried_at_s == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert LONGEST_RETRY_S == 60
    assert (
        "digits version 1 could not be loaded: SCHEMA_MISMATCH" in bench.follower.following.failure
    )


def test_follower_takes_the_next_version_at_once_after_a_bad_one(store):
    publish(store, 1)
    bench = Bench(store)
    bench.serves()
    publish(store, 2, data=b"no safetensors")
    assert bench.serves() == 1
    assert bench.follower.following.current.alias == "", "the alias points at the refused one"
    publish(store, 3)

    assert bench.serves() == 3
    assert bench.follower.following.current.alias == "latest"
    assert bench.follower.following.failure == ""
    assert bench.follower.following.previous.record.number == 1


def test_follower_forgets_a_failure_when_the_alias_goes_back(store):
    publish(store, 1)
    bench = Bench(store)
    bench.serves()
    publish(store, 2, data=b"no safetensors")
    bench.serves()
    store.registry.set_alias("digits", "latest", 1)

    assert bench.serves() == 1
    assert bench.follower.following.current.alias == "latest"
    assert bench.follower.following.failure == ""
    assert bench.loads == [1, 2]


class Unreadable:
    """The registry of a store, out of reach while ``is_away``."""

    def __init__(self, store: Store) -> None:
        self._registry = store.registry
        self.is_away = True

    def events(self, after_id: int = 0, limit: int = 1000) -> list[RegistryEvent]:
        if self.is_away:
            raise StoreUnavailable("the disk is away")
        return self._registry.events(after_id, limit)

    def __getattr__(self, name: str) -> object:
        return getattr(self._registry, name)


def test_follower_outlives_a_registry_that_is_away(store, caplog):
    publish(store, 1)
    bench = Bench(store)
    registry = Unreadable(store)
    bench.reads(registry)
    assert bench.serves() is None
    assert bench.serves() is None
    assert bench.follower.following.failure.startswith(
        "the registry cannot be read: STORE_UNAVAILABLE"
    )
    assert [record.message for record in caplog.records] == ["registry_unreadable"]

    registry.is_away = False

    assert bench.serves() == 1
    assert bench.follower.following.failure == ""


def test_follower_goes_back_to_what_it_kept_without_a_load(store):
    bench = Bench(store)
    publish(store, 1)
    bench.serves()
    publish(store, 2)
    bench.serves()
    store.registry.set_alias("digits", "latest", 1)

    assert bench.serves() == 1
    assert bench.loads == [1, 2]


# Without a version in memory.


def test_follower_starts_with_the_last_good_one_where_the_newest_is_refused(store):
    for seed in range(9):
        publish(store, seed)
    bench = Bench(store)
    bench.unfit = {9, 8}

    assert bench.serves() == 7
    assert "digits version 9 could not be loaded" in bench.follower.following.failure
    assert [one.number for one in bench.follower.following.refused] == [8, 9]
    assert bench.follower.following.current.alias == ""

    bench.unfit = set()
    bench.now_s += 1
    assert bench.serves() == 9
    assert bench.follower.following.failure == ""
    assert bench.loads == [9, 8, 7, 9]


def test_follower_tries_the_alias_previous_before_older_versions_and_no_retired_ones(store):
    for seed in range(5):
        publish(store, seed)
    store.registry.set_alias("digits", "previous", 2)
    store.registry.retire("digits", 4, 1.0)
    bench = Bench(store)
    bench.unfit = {5, 2}

    assert bench.serves() == 3
    assert bench.loads == [5, 2, 3]


def test_follower_tries_only_so_many_older_ones(store):
    for seed in range(12):
        publish(store, seed)
    bench = Bench(store)
    bench.unfit = set(range(13))

    assert bench.serves() is None
    assert bench.loads == [12, 11, 10, 9, 8, 7]


# Rolling back.


def test_version_that_gives_no_answer_is_rolled_back_at_once_and_for_good(store):
    bench = served_two(store)
    bad = bench.follower.following.current

    other = bench.follower.failed(bad, UNFIT)

    assert other is bench.follower.following.current
    assert other.record.number == 1
    assert bench.follower.following.previous is None
    assert "version 2 (round 2) was rolled back: VERSION_INVALID" in (
        bench.follower.following.failure
    )
    (refused,) = bench.follower.following.refused
    assert (refused.number, refused.code, refused.was_served) == (2, "VERSION_INVALID", True)
    bench.now_s += 1000
    assert bench.serves() == 1
    assert store.registry.aliases("digits")["latest"].number == 2  # it is not ours to move

    publish(store, 3)
    assert bench.serves() == 3
    assert bench.follower.following.failure == ""


def test_alias_that_is_set_anew_has_a_rolled_back_version_tried_again(store):
    bench = served_two(store)
    bench.follower.failed(bench.follower.following.current, UNFIT)
    assert bench.serves() == 1

    store.registry.set_alias("digits", "latest", 2)

    assert bench.serves() == 2


def test_version_may_fail_now_and_then_but_not_often_in_its_first_time(store):
    bench = served_two(store, rollback_failures=3, rollback_window_s=60.0)
    current = bench.follower.following.current

    asked = [bench.follower.failed(current, BROKEN) for _ in range(2)]
    assert [one.record.number for one in asked] == [1, 1]  # who failed is asked of the one before
    assert bench.serves() == 2
    bench.follower.failed(current, BROKEN)
    assert bench.serves() == 1


def test_failures_after_the_first_time_roll_nothing_back(store):
    bench = served_two(store, rollback_failures=3, rollback_window_s=60.0)
    current = bench.follower.following.current
    bench.now_s += 61

    for _ in range(10):
        bench.follower.failed(current, BROKEN)

    assert bench.serves() == 2


def test_failures_of_a_version_that_is_served_no_longer_change_nothing(store):
    bench = served_two(store)
    old = bench.follower.following.previous

    assert bench.follower.failed(old, UNFIT).record.number == 2
    assert bench.follower.following.refused == ()


def test_rollback_moves_the_alias_where_the_settings_say_so(store):
    bench = served_two(store, moves_alias=True)

    bench.follower.failed(bench.follower.following.current, UNFIT)

    assert bench.serves() == 1
    assert store.registry.aliases("digits")["latest"].number == 1
    assert bench.follower.following.failure == ""
    assert [one.number for one in bench.follower.following.refused] == [2]


def test_rollback_moves_no_alias_that_somebody_has_moved_meanwhile(store):
    bench = served_two(store, moves_alias=True)
    bench.follower.failed(bench.follower.following.current, UNFIT)
    publish(store, 3)

    assert bench.serves() == 3
    assert store.registry.aliases("digits")["latest"].number == 3
    assert [deed.fields.get("refused") for deed in store.audit.records()] == [None, "CONFLICT"]


def test_alias_that_is_moved_back_is_in_the_audit_log_of_all(store, tmp_path):
    """Which the coordinator, another process, writes at the same time."""
    bench = served_two(store, moves_alias=True)
    bench.follower.failed(bench.follower.following.current, UNFIT)
    with open_store(f"sqlite:{tmp_path}") as coordinators:
        coordinators.audit.append(a_deed())
        bench.serves()
        coordinators.audit.append(a_deed())
        records = coordinators.audit.records()

    assert verify(records) == 3
    assert (records[1].actor, records[1].action, records[1].object) == (
        "inference/here",
        "roll_back_alias",
        "model/digits",
    )
    assert records[1].fields == {
        "alias": "latest",
        "version": 1,
        "left_version": 2,
        "expected_revision": 2,
    }


def test_alias_is_moved_back_after_a_fault_and_recorded_once(store, monkeypatch):
    bench = served_two(store, moves_alias=True)
    bench.follower.failed(bench.follower.following.current, UNFIT)

    def away(*args: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store.audit, "append", away)
        bench.serves()
    assert store.registry.aliases("digits")["latest"].number == 2
    with monkeypatch.context() as patch:
        patch.setattr(store.registry, "set_alias", away)
        bench.serves()
    bench.serves()

    assert store.registry.aliases("digits")["latest"].number == 1
    assert len(store.audit.records()) == 1


def test_start_falls_back_to_what_the_alias_named_before(store):
    """Which no gate has called ``previous``, and is not the newest of the older ones."""
    for seed in range(1, 6):
        publish(store, seed, aliases=())
    for number in (2, 5):
        store.registry.set_alias("digits", "stable", number)
    bench = Bench(store, alias="stable")
    bench.unfit = {5}

    assert bench.serves() == 2
    assert bench.loads == [5, 2]


def test_version_with_nothing_before_it_answers_on_until_there_is_another(store):
    publish(store, 1)
    bench = Bench(store)
    bench.serves()
    only = bench.follower.following.current

    assert bench.follower.failed(only, UNFIT) is None
    assert bench.serves() == 1

    publish(store, 2)
    assert bench.serves() == 2


def test_version_that_fails_after_a_start_is_replaced_by_an_older_one(store):
    publish(store, 1)
    publish(store, 2)
    bench = Bench(store)
    assert bench.serves() == 2
    assert bench.follower.following.previous is None

    bench.follower.failed(bench.follower.following.current, UNFIT)

    assert bench.serves() == 1
    assert bench.loads == [2, 1]


def test_rollback_by_hand_holds_until_it_is_ended(store):
    bench = served_two(store)

    bench.follower.hold_previous()

    publish(store, 3)
    assert bench.serves() == 1
    assert bench.follower.following.is_held
    with pytest.raises(Conflict, match="already"):
        bench.follower.hold_previous()
    bench.follower.resume()
    assert bench.serves() == 3


def test_rollback_by_hand_needs_a_version_to_go_back_to(store):
    publish(store, 1)
    bench = Bench(store)
    bench.serves()

    with pytest.raises(Conflict, match="none was served before"):
        bench.follower.hold_previous()


def test_rollback_by_hand_during_a_load_keeps_what_was_loaded_out(store):
    bench = served_two(store)
    publish(store, 3)
    load = bench.follower._load

    def while_loading(record: VersionRecord, alias: str) -> Servable:
        bench.follower.hold_previous()
        return load(record, alias)

    bench.follower._load = while_loading

    assert bench.serves() == 1


def test_version_that_was_left_by_hand_is_asked_by_nobody(store):
    bench = served_two(store)
    bench.follower.hold_previous()
    held = bench.follower.following.current

    assert bench.follower.failed(held, UNFIT) is None

    assert bench.serves() == 1
    assert bench.follower.following.is_held
    assert bench.follower.following.previous.record.number == 2
    assert "version 1 (round 1): VERSION_INVALID" in bench.follower.following.failure
    bench.follower.resume()
    assert bench.serves() == 2
    assert bench.follower.following.failure == ""


def served_other(store: Store, numbers: int) -> Bench:
    """A follower of whatever is newest: of other/1 first, then of the last of some digits."""
    publish(store, 0, model="other")
    for seed in range(numbers - 1):
        publish(store, seed, aliases=())
    bench = Bench(store, moves_alias=True)
    assert bench.serves() == 1
    publish(store, 9)
    assert bench.serves() == numbers
    assert bench.follower.following.previous.record.model == "other"
    return bench


def test_rollback_goes_to_an_older_version_of_the_same_model_and_touches_no_alias(store):
    bench = served_other(store, 2)

    assert bench.follower.failed(bench.follower.following.current, UNFIT) is None

    assert bench.serves() == 1
    assert bench.follower.following.current.record.model == "digits"
    assert store.registry.aliases("other")["latest"].revision == 1
    assert store.registry.aliases("digits")["latest"].number == 2


def test_rollback_goes_to_another_model_where_there_is_nothing_else(store):
    bench = served_other(store, 1)

    assert bench.follower.failed(bench.follower.following.current, UNFIT) is None

    bench.serves()
    assert bench.follower.following.current.record.model == "other"
    assert store.registry.aliases("other")["latest"].revision == 1
    assert "digits version 1 (round 1) was rolled back" in bench.follower.following.failure


def test_registry_that_is_back_is_no_longer_said_to_be_away(store):
    """Neither while a rollback is held, nor where a version's own failure was said before."""
    bench = served_two(store)
    bench.follower.hold_previous()
    registry = Unreadable(store)
    bench.reads(registry)
    bench.serves()
    assert "the disk is away" in bench.follower.following.failure
    registry.is_away = False

    assert bench.serves() == 1
    assert bench.follower.following.failure == ""

    bench.follower.resume()
    assert bench.serves() == 2
    publish(store, 3)
    assert bench.serves() == 3
    bench.follower.failed(bench.follower.following.current, UNFIT)
    registry.is_away = True
    bench.serves()
    assert "the disk is away" in bench.follower.following.failure
    registry.is_away = False
    assert bench.serves() == 2
    assert "version 3 (round 3) was rolled back" in bench.follower.following.failure


# The candidate.


def candidate_of(bench: Bench) -> int | None:
    bench.serves()
    candidate = bench.follower.following.candidate
    return candidate.record.number if candidate else None


def test_candidate_is_at_hand_and_takes_over_without_a_load(store):
    bench = Bench(store, alias="production", canary_alias="candidate")
    publish(store, 1, aliases=("production",))
    publish(store, 2, aliases=("candidate",))

    assert candidate_of(bench) == 2
    assert bench.follower.following.candidate.alias == "candidate"
    store.registry.set_alias("digits", "production", 2)

    assert candidate_of(bench) is None
    assert bench.serves() == 2
    assert bench.follower.following.current.alias == "production"
    assert bench.loads == [1, 2]


def test_candidate_that_cannot_be_loaded_or_fails_costs_nobody_anything(store):
    bench = Bench(store, alias="production", canary_alias="candidate")
    bench.unfit = {2}
    publish(store, 1, aliases=("production",))
    publish(store, 2, aliases=("candidate",))
    assert candidate_of(bench) is None
    assert [one.number for one in bench.follower.following.refused] == [2]
    assert bench.follower.following.failure == ""

    publish(store, 3, aliases=("candidate",))
    assert candidate_of(bench) == 3
    bad = bench.follower.following.candidate
    assert bench.follower.failed(bad, UNFIT).record.number == 1
    assert bench.follower.following.candidate is None
    assert candidate_of(bench) is None
    assert bench.serves() == 1

    publish(store, 4, aliases=("candidate",))
    assert candidate_of(bench) == 4


def test_trial_of_a_candidate_that_was_served_before_goes_on_whatever_happens(store):
    bench = Bench(store, alias="production", canary_alias="candidate", rollback_failures=3)
    publish(store, 1, aliases=("production", "candidate"))
    bench.serves()
    publish(store, 2, aliases=("production",))
    assert candidate_of(bench) == 1
    assert bench.follower.following.previous.record.number == 1

    for seed in (3, 4, 5):
        publish(store, seed, aliases=())  # an event
        bench.follower.failed(bench.follower.following.candidate, BROKEN)
        last = candidate_of(bench)

    assert last is None
