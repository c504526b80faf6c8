"""When a challenger may take a lease; the owner is one that never beats by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfleet.store.lease import LOOK_S, Watch
from fedfleet.store.sqlite import SqliteStore
from fedfleet.store.sqlite_lease import SqliteLeases

LASTS_S = 4.0
PAUSE_S = 0.4


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path) as store:
        yield store


@pytest.fixture
def owner(store: SqliteStore, tmp_path: Path) -> Iterator[SqliteLeases]:
    leases = SqliteLeases(store.database, tmp_path)
    leases.claim(leases.read(), "owner", LASTS_S)
    yield leases
    leases.release()


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(owner: SqliteLeases, store: SqliteStore, tmp_path: Path, clock: Clock) -> Watch:
    return Watch(SqliteLeases(store.database, tmp_path), clock)


def look_for(watch: Watch, clock: Clock, seconds: float) -> None:
    watch.look()
    for _ in range(round(seconds / PAUSE_S)):
        clock.now_s += PAUSE_S
        watch.look()


def test_a_lease_that_nobody_holds_is_free(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        watch = Watch(SqliteLeases(store.database, tmp_path))
        watch.look()

        assert watch.is_free
        assert not watch.owner_lives


def test_a_beat_that_stands_still_for_as_long_as_the_lease_lasts_frees_it(
    watch: Watch, clock: Clock
) -> None:
    look_for(watch, clock, LASTS_S - PAUSE_S)
    assert not watch.is_free

    look_for(watch, clock, 2 * PAUSE_S)

    assert watch.is_free
    assert not watch.owner_lives


def test_a_beat_begins_the_count_again(watch: Watch, clock: Clock, owner: SqliteLeases) -> None:
    look_for(watch, clock, LASTS_S - PAUSE_S)
    owner.renew()
    look_for(watch, clock, LASTS_S - PAUSE_S)

    assert not watch.is_free


def test_time_without_a_look_counts_as_two_pauses_at_most(watch: Watch, clock: Clock) -> None:
    watch.look()
    clock.now_s += 3600.0
    watch.look()

    assert watch.stood_s == 2 * watch.pause_s
    assert not watch.is_free


def test_time_in_which_the_store_was_away_does_not_count(watch: Watch, clock: Clock) -> None:
    look_for(watch, clock, LASTS_S - PAUSE_S)
    watch.lose_sight()
    look_for(watch, clock, LASTS_S - PAUSE_S)

    assert not watch.is_free


def test_an_owner_lives_once_it_has_beaten_and_until_it_stood_for_half_the_lease(
    watch: Watch, clock: Clock, owner: SqliteLeases
) -> None:
    look_for(watch, clock, PAUSE_S)
    assert not watch.owner_lives

    owner.renew()
    look_for(watch, clock, LASTS_S / 2 - PAUSE_S)
    assert watch.owner_lives

    look_for(watch, clock, 2 * PAUSE_S)
    assert not watch.owner_lives


def test_a_beat_while_the_store_was_away_is_a_sign_of_life(
    watch: Watch, owner: SqliteLeases
) -> None:
    watch.look()
    watch.lose_sight()
    owner.renew()
    watch.look()

    assert watch.owner_lives


def test_looks_are_frequent_however_long_a_lease_lasts(
    watch: Watch, owner: SqliteLeases, store: SqliteStore
) -> None:
    watch.look()
    assert watch.pause_s == PAUSE_S

    with store.database.transaction() as connection:
        connection.execute("UPDATE lease SET lasts_s = 3600")
    watch.look()

    assert watch.pause_s == LOOK_S
