from __future__ import annotations

from dataclasses import replace

import pytest
from contract.store.builders import a_run, an_entry, an_update
from contract.store.places import Place

from fedfleet.errors import AlreadyExists, Conflict, NotFound
from fedfleet.store.protocols import RunState, Store, UpdateRecord

FINAL = [state for state in RunState if state.final]


def kinds(store: Store, run_id: str = "run-1") -> list[str]:
    return [entry.kind for entry in store.journal.entries(run_id)]


def test_create_run_keeps_every_field(store: Store) -> None:
    run = a_run(code="X", reason="because", round=2)

    store.journal.create_run(run, an_entry(kind="submitted"))

    assert store.journal.run("run-1") == run
    assert kinds(store) == ["submitted"]
    assert store.journal.memory_digest("run-1") == ""


def test_create_run_twice_is_refused_and_changes_nothing(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())

    with pytest.raises(AlreadyExists, match="run-1") as caught:
        store.journal.create_run(a_run(recipe="other"), an_entry(kind="again"))

    assert caught.value.code == "ALREADY_EXISTS"
    assert store.journal.run("run-1") == a_run()
    assert kinds(store) == ["note"]


def test_runs_come_in_the_order_of_creation(store: Store) -> None:
    for run_id, created_at_s in (("b", 3.0), ("a", 2.0), ("c", 2.0)):
        run = a_run(run_id, created_at_s=created_at_s)
        store.journal.create_run(run, an_entry(run_id))

    assert [run.run_id for run in store.journal.runs()] == ["b", "a", "c"]


def test_unknown_run_is_not_found_and_has_no_entries(store: Store) -> None:
    journal = store.journal

    assert journal.runs() == []
    assert journal.entries("nobody") == []
    assert journal.updates("nobody", 1) == []
    store.blobs.put(b"payload")
    for call in (
        lambda: journal.run("nobody"),
        lambda: journal.memory_digest("nobody"),
        lambda: journal.append(an_entry("nobody")),
        lambda: journal.set_run_state("nobody", RunState.RUNNING, an_entry("nobody")),
        lambda: journal.accept_update(an_update(run_id="nobody"), an_entry("nobody")),
    ):
        with pytest.raises(NotFound, match="nobody") as caught:
            call()
        assert caught.value.code == "NOT_FOUND"


def test_set_run_state_returns_the_run_and_appends_the_entry(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())

    run = store.journal.set_run_state(
        "run-1", RunState.FAILED, an_entry(kind="failed", at_s=200.0), code="C", reason="why"
    )

    wanted = a_run(state=RunState.FAILED, code="C", reason="why", updated_at_s=200.0)
    assert run == wanted == store.journal.run("run-1")
    assert kinds(store) == ["note", "failed"]


@pytest.mark.parametrize("final", FINAL)
@pytest.mark.parametrize("state", RunState)
def test_set_run_state_leaves_a_final_state(store: Store, final: RunState, state: RunState) -> None:
    store.journal.create_run(a_run(), an_entry())
    ended = store.journal.set_run_state("run-1", final, an_entry(kind="ended"), reason="why")

    with pytest.raises(Conflict, match=final.value) as caught:
        store.journal.set_run_state("run-1", state, an_entry(kind="late"))

    assert caught.value.code == "CONFLICT"
    assert store.journal.run("run-1") == ended
    assert kinds(store) == ["note", "ended"]


def test_append_gives_growing_ids_over_all_runs(store: Store) -> None:
    for run_id in ("run-1", "run-2"):
        store.journal.create_run(a_run(run_id), an_entry(run_id))

    stored = [
        store.journal.append(an_entry(run_id, event_id=7, round=round))
        for round in range(3)
        for run_id in ("run-1", "run-2")
    ]

    ids = [entry.event_id for entry in stored]
    assert ids == sorted(set(ids))
    assert min(ids) > max(store.journal.entries(run)[0].event_id for run in ("run-1", "run-2"))
    assert store.journal.entries("run-1")[1:] == stored[::2]


def test_entries_resume_after_an_id_and_stop_at_a_limit(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry(kind="0"))
    for number in range(1, 6):
        store.journal.append(an_entry(kind=str(number)))

    first = store.journal.entries("run-1", limit=2)
    rest = store.journal.entries("run-1", after_id=first[-1].event_id)

    assert [entry.kind for entry in first + rest] == ["0", "1", "2", "3", "4", "5"]
    assert store.journal.entries("run-1", after_id=rest[-1].event_id) == []


def test_accept_update_keeps_every_field(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"payload")

    assert store.journal.accept_update(an_update(), an_entry(kind="update"))

    assert store.journal.updates("run-1", 1) == [an_update()]
    assert store.journal.updates("run-1", 2) == []
    assert kinds(store) == ["note", "update"]


def test_accept_update_counts_a_repeated_update_once(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"payload")
    store.journal.accept_update(an_update(), an_entry(kind="update"))

    again = replace(an_update(), accepted_at_s=999.0)
    assert not store.journal.accept_update(again, an_entry(kind="again"))

    assert store.journal.updates("run-1", 1) == [an_update()]
    assert kinds(store) == ["note", "update"]


def test_accept_update_refuses_another_payload_for_an_assignment(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"payload")
    store.blobs.put(b"other")
    store.journal.accept_update(an_update(), an_entry(kind="update"))

    with pytest.raises(Conflict, match="run-1/1/a") as caught:
        store.journal.accept_update(an_update(b"other"), an_entry(kind="other"))

    assert caught.value.code == "CONFLICT"
    assert store.journal.updates("run-1", 1) == [an_update()]
    assert kinds(store) == ["note", "update"]


def test_accept_update_wants_the_payload_stored_first(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())

    with pytest.raises(NotFound, match="not stored") as caught:
        store.journal.accept_update(an_update(), an_entry(kind="update"))

    assert caught.value.code == "NOT_FOUND"
    assert store.journal.updates("run-1", 1) == []
    assert kinds(store) == ["note"]


def test_update_finds_the_one_of_an_assignment(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"payload")
    update = an_update()
    store.journal.accept_update(update, an_entry())

    assert store.journal.update(update.run_id, update.round, update.assignment_id) == update
    assert store.journal.update(update.run_id, update.round + 1, update.assignment_id) is None
    assert store.journal.update(update.run_id, update.round, "another") is None


def test_find_update_finds_an_assignment_in_a_range_of_rounds(store: Store) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"payload")
    update = an_update(round=3)
    store.journal.accept_update(update, an_entry())

    def found(rounds: range, key: str = update.assignment_id) -> UpdateRecord | None:
        return store.journal.find_update(update.run_id, rounds, key)

    assert [found(one) for one in (range(1, 4), range(3, 4), range(3, 10**6))] == [update] * 3
    assert [found(one) for one in (range(1, 3), range(4, 9), range(3, 3))] == [None] * 3
    assert found(range(1, 9), "another") is None
    assert store.journal.find_update("another", range(1, 9), update.assignment_id) is None


def test_updates_are_keyed_by_run_round_and_assignment(store: Store) -> None:
    for run_id in ("run-1", "run-2"):
        store.journal.create_run(a_run(run_id), an_entry(run_id))
    store.blobs.put(b"payload")
    updates = [
        an_update(run_id=run_id, round=round, assignment_id=assignment_id)
        for run_id in ("run-1", "run-2")
        for round in (1, 2)
        for assignment_id in ("b", "a")
    ]

    for update in updates:
        assert store.journal.accept_update(update, an_entry(update.run_id))

    assert store.journal.updates("run-2", 1) == [updates[5], updates[4]]


def test_journal_is_there_after_reopening(place: Place) -> None:
    with place.open() as store:
        store.journal.create_run(a_run(), an_entry())
        store.blobs.put(b"payload")
        store.journal.accept_update(an_update(), an_entry(kind="update"))
        before = store.journal.entries("run-1")

    with place.open() as store:
        assert store.journal.run("run-1") == a_run()
        assert store.journal.updates("run-1", 1) == [an_update()]
        assert store.journal.entries("run-1") == before
        assert store.journal.append(an_entry()).event_id > before[-1].event_id
