"""One owner at a time, whatever happens to it; the times are those of real processes."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack

import pytest
from contract.store import lease_child, takeover_child
from contract.store.builders import an_entry
from contract.store.children import ask, child, next_line, stop
from contract.store.places import Place
from contract.store.writes import WRITES, everything, prepare

from fedfleet.errors import StateInUse
from fedfleet.store.audit import AuditRecord, verify
from fedfleet.store.protocols import Store

SHORT_S = 0.5
# What a busy machine with two cores may add to any time.
SLACK_S = 3.0


def test_own_gives_each_owner_a_greater_token(store: Store, place: Place) -> None:
    tokens = []
    for _ in range(2):
        for each in (store, store, place.open()):
            with each.own("me") as lease:
                assert lease.record.holder == "me"
                assert not lease.lost.is_set()
                tokens.append(lease.record.token)
            if each is not store:
                each.close()

    assert tokens == [1, 2, 3, 4, 5, 6]


def test_own_names_the_process_where_nobody_is_named(store: Store) -> None:
    with store.own() as lease:
        assert lease.record.holder.startswith("process ")


@pytest.mark.parametrize("lasts_s", [0.0, -1.0, float("nan")])
def test_own_refuses_a_lease_that_does_not_last(store: Store, lasts_s: float) -> None:
    with pytest.raises(ValueError, match="must be more than 0"), store.own(lasts_s=lasts_s):
        pass


def test_own_says_soon_that_a_live_process_owns(store: Store, place: Place) -> None:
    with child(lease_child.__file__, place.url, "4") as owner:
        ask(owner, "own 0")
        assert next_line(owner) == "owned 1"
        began_s = time.monotonic()

        with pytest.raises(StateInUse, match=r"in use by another process \(process ") as caught:
            store.own().__enter__()

        assert time.monotonic() - began_s < 4.0
        assert caught.value.code == "STATE_IN_USE"


def test_own_of_one_process_keeps_out_another_store_object(store: Store, place: Place) -> None:
    with store.own("me", lasts_s=SHORT_S), place.open() as other:
        for each in (store, other):
            with pytest.raises(StateInUse, match=r"\(me\)"):
                each.own().__enter__()
        store.journal.runs()


def test_own_takes_a_lease_that_was_given_back_at_once(store: Store, place: Place) -> None:
    with child(lease_child.__file__, place.url, "60") as owner, ThreadPoolExecutor(1) as pool:
        ask(owner, "own 0")
        assert next_line(owner) == "owned 1"
        waiting = pool.submit(store.own(wait_s=None).__enter__)
        began_s = time.monotonic()
        ask(owner, "release")
        assert next_line(owner) == "released"

        assert waiting.result().record.token == 2
        assert time.monotonic() - began_s < SLACK_S


def test_own_waits_for_a_live_owner_and_replaces_a_killed_one(place: Place) -> None:
    with (
        child(lease_child.__file__, place.url, str(SHORT_S)) as first,
        child(lease_child.__file__, place.url, str(SHORT_S)) as second,
    ):
        ask(first, "own 0")
        assert next_line(first) == "owned 1"
        ask(second, f"own {2 * SHORT_S}")
        assert next_line(second) == "STATE_IN_USE"
        ask(second, "own ever")
        first.kill()
        began_s = time.monotonic()

        assert next_line(second) == "owned 2"
        assert time.monotonic() - began_s < SHORT_S + SLACK_S
        with place.open() as store:
            prepare(store)
        ask(second, "write append")
        assert next_line(second) == "written"


def test_a_stopped_owner_is_replaced_and_cannot_write_when_it_wakes_up(
    store: Store, place: Place
) -> None:
    prepare(store)
    with child(lease_child.__file__, place.url, str(SHORT_S)) as old:
        ask(old, "own 0")
        assert next_line(old) == "owned 1"
        stop(old, store)
        began_s = time.monotonic()

        with store.own(wait_s=None) as lease:
            assert lease.record.token == 2
            assert time.monotonic() - began_s < SHORT_S + SLACK_S
            before = everything(store)
            old.send_signal(signal.SIGCONT)
            for name in WRITES:
                ask(old, f"write {name}")
                assert (name, next_line(old)) == (name, "LEASE_LOST")
            ask(old, "lost")
            assert next_line(old) == "lost"
            assert everything(store) == before
            for write in WRITES.values():  # nothing but the lease was in the way
                write(store)
            assert all(a != b for a, b in zip(before, everything(store), strict=True))


def test_who_lost_the_lease_cannot_write_until_it_owns_again(store: Store, place: Place) -> None:
    prepare(store)
    with child(lease_child.__file__, place.url, str(SHORT_S)) as old:
        ask(old, "own 0")
        assert next_line(old) == "owned 1"
        stop(old, store)
        with store.own(wait_s=None):
            old.send_signal(signal.SIGCONT)
        answers = []
        for line in ("release", "write append", "own 0", "write append"):
            ask(old, line)
            answers.append(next_line(old))

        assert answers == ["released", "LEASE_LOST", "owned 3", "written"]


def test_who_gave_the_lease_back_may_write_as_any_other(store: Store, place: Place) -> None:
    prepare(store)
    with store.own():
        store.journal.append(an_entry())
    store.journal.append(an_entry())
    with place.open() as other, other.own():
        store.journal.append(an_entry())

    assert len(store.journal.entries("run-1")) == 5


def test_who_never_owned_is_not_kept_from_writing(store: Store, place: Place) -> None:
    prepare(store)
    with place.open() as owner, owner.own() as lease:
        for write in WRITES.values():
            write(store)
        owner.journal.append(an_entry())

        assert not lease.lost.is_set()


def test_renewal_keeps_an_owner_for_many_times_what_a_lease_lasts(
    store: Store, place: Place
) -> None:
    prepare(store)
    with child(lease_child.__file__, place.url, str(SHORT_S)) as owner:
        ask(owner, "own 0")
        assert next_line(owner) == "owned 1"
        began_s = time.monotonic()

        with pytest.raises(StateInUse):
            store.own(wait_s=10 * SHORT_S).__enter__()

        assert time.monotonic() - began_s >= 10 * SHORT_S
        ask(owner, "write append")
        assert next_line(owner) == "written"


def test_a_race_for_the_lease_has_exactly_one_winner_each_time(place: Place) -> None:
    with ExitStack() as stack:
        racers = [
            stack.enter_context(child(lease_child.__file__, place.url, "3")) for _ in range(5)
        ]
        for token in range(1, 5):
            for racer in racers:
                ask(racer, "own 0")
            answers = [next_line(racer) for racer in racers]

            assert sorted(answers) == ["STATE_IN_USE"] * 4 + [f"owned {token}"]
            winner = racers[answers.index(f"owned {token}")]
            ask(winner, "release")
            assert next_line(winner) == "released"


def test_waiting_ends_when_it_is_given_up(store: Store, place: Place) -> None:
    given_up = threading.Event()
    with place.open() as owner, owner.own(), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.own(wait_s=None, given_up=given_up).__enter__)
        began_s = time.monotonic()
        given_up.set()

        with pytest.raises(StateInUse, match="given up"):
            waiting.result()
        assert time.monotonic() - began_s < SLACK_S


def test_no_thread_outlives_the_lease(store: Store) -> None:
    with pytest.raises(KeyError), store.own():
        assert "lease" in [thread.name for thread in threading.enumerate()]
        raise KeyError

    assert "lease" not in [thread.name for thread in threading.enumerate()]
    with store.own(wait_s=0.0) as lease:  # what the body raised does not keep the lease
        assert lease.record.token == 2


def test_a_store_that_cannot_be_reached_at_the_end_is_no_error(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    store = place.open()
    with caplog.at_level(logging.WARNING, "fedfleet.store.lease"), store.own():
        store.close()

    assert [record.message for record in caplog.records] == ["lease_not_released"]


def test_no_write_of_a_former_owner_comes_behind_one_of_its_successor(
    store: Store, place: Place
) -> None:
    with ExitStack() as stack:
        takers = {name: stack.enter_context(taker(place, name)) for name in "abc"}
        writer = last_writer(store, 0)
        for number in range(3):
            stopped = takers[writer.actor]
            stop(stopped, store)
            writer = last_writer(store, writer.fields["token"])
            stopped.send_signal(signal.SIGCONT)
            takers[writer.actor].kill()
            takers[f"{number}"] = stack.enter_context(taker(place, f"{number}"))
            writer = last_writer(store, writer.fields["token"])

    records = pages(store)
    tokens = [record.fields["token"] for record in records]
    assert tokens == sorted(tokens)
    assert len(set(tokens)) > 6
    assert len({(record.fields["token"], record.actor) for record in records}) == len(set(tokens))
    assert verify(records) == len(records)


def taker(place: Place, name: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return child(takeover_child.__file__, place.url, name, str(SHORT_S))


def last_writer(store: Store, behind_token: int) -> AuditRecord:
    """The last record of the audit log, as soon as it is one of a later token."""
    while True:
        head = store.audit.head()
        if head is not None and head.fields["token"] > behind_token:
            return head
        threading.Event().wait(0.01)


def pages(store: Store) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    while page := store.audit.records(after_number=len(records)):
        records += page
    return records
