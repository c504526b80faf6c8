from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import tiny_recipe
from records import of_accuracy

from fedfleet.rounds import events as ev
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Entry, Journal, RunRecord, RunState
from fedfleet_coordinator.standings import ACCURACIES, Part, Standing, Standings


class Diary:
    """Entries as a run's event log writes them."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def write(self, round: int, event: ev.Event) -> None:
        fields = ev.to_fields(event)
        kind, number = ev.kind_of(event), len(self.entries) + 1
        entry = Entry(
            run_id="r-1", round=round, at_s=event.at_s, kind=kind, fields=fields, event_id=number
        )
        self.entries.append(entry)

    def cohort(self, round: int, at_s: float, *workers: str, lengths: tuple[int, ...] = ()) -> None:
        event = ev.CohortSelected(at_s=at_s, workers=workers, chain_lengths=lengths)
        self.write(round, event)

    def update(self, round: int, at_s: float, worker: str, weight: float) -> None:
        key = f"r-1/{round}/1/train/{worker}"
        self.write(round, ev.UpdateAccepted(at_s=at_s, assignment_id=key, weight=weight))

    def failure(self, round: int, at_s: float, worker: str) -> None:
        key = f"r-1/{round}/1/train/{worker}"
        self.write(round, ev.AssignmentFailed(at_s=at_s, assignment_id=key, code="X", reason="x"))

    def commit(self, round: int, at_s: float) -> None:
        event = ev.RoundCommitted(at_s=at_s, version=round, digest="d", workers=())
        self.write(round, event)

    def evaluation(self, round: int, worker: str, percent: int) -> None:
        key = f"r-1/{round}/1/evaluate/{worker}"
        found = of_accuracy(percent).to_json()
        self.write(round, ev.EvaluationReported(at_s=9.0, assignment_id=key, evaluation=found))

    def part(self, worker: str) -> Part:
        standing = Standing()
        standing.take(self.entries)
        return standing.part(worker)


@pytest.fixture
def diary() -> Diary:
    """Two rounds; b fails in the first."""
    made = Diary()
    made.cohort(1, 10.0, "a", "b", "c")
    made.failure(1, 11.0, "b")
    made.update(1, 12.0, "a", 30.0)
    made.update(1, 14.0, "c", 10.0)
    made.commit(1, 15.0)
    made.evaluation(1, "a", 40)
    made.cohort(2, 20.0, "a", "b")
    made.update(2, 24.0, "a", 30.0)
    made.update(2, 26.0, "b", 30.0)
    made.commit(2, 27.0)
    made.evaluation(2, "a", 60)
    return made


def test_standing_counts_rounds_and_weight_of_updates_that_count(diary: Diary) -> None:
    assert diary.part("a") == Part(2, 0.6, 3.0, ((1, 0.4), (2, 0.6)), 2)
    assert diary.part("b") == Part(1, 0.3, 6.0, (), 2)
    assert diary.part("c") == Part(1, 0.1, 4.0, (), 2)
    assert diary.part("nobody") == Part(of_rounds=2)


def test_standing_waits_with_an_update_for_its_rounds_commit(diary: Diary) -> None:
    diary.cohort(3, 30.0, "a")
    diary.update(3, 35.0, "a", 1000.0)

    assert diary.part("a").rounds == 2
    assert diary.part("a").weight_ratio == 0.6
    diary.commit(3, 36.0)
    assert diary.part("a").rounds == 3


def test_standing_counts_those_who_wait_in_a_chain_from_their_turn() -> None:
    made = Diary()
    made.cohort(1, 10.0, "a", "b", "c", lengths=(2, 1))
    made.update(1, 12.0, "a", 1.0)
    made.update(1, 13.0, "c", 1.0)
    made.update(1, 17.0, "b", 1.0)
    made.commit(1, 18.0)

    assert [made.part(name).round_s for name in "abc"] == [2.0, 5.0, 3.0]


def test_standing_of_an_asynchronous_run_counts_the_first_of_its_buffer() -> None:
    made = Diary()
    made.cohort(1, 0.0, "a", "b", "c")
    made.update(1, 1.0, "a", 10.0)
    made.cohort(1, 1.0, "a")
    made.update(1, 2.0, "b", 1000.0)
    made.update(1, 3.0, "a", 10.0)  # while the first version is made
    made.commit(1, 4.0)
    standing = Standing(2, lambda staleness: 1.0 / (1 + staleness))
    standing.take(made.entries)

    assert [standing.part(name).rounds for name in "abc"] == [1, 1, 0]
    assert standing.part("b").weight_ratio == 0.5
    made.entries.clear()
    made.update(1, 5.0, "c", 77.0)
    made.commit(2, 6.0)
    standing.take(made.entries)
    # Two fresh ones and two of a staleness of 1.
    assert [standing.part(name).weight_ratio for name in "abc"] == [0.5, 1 / 3, 1 / 6]
    assert [standing.part(name).rounds for name in "abc"] == [2, 1, 1]


def test_standings_know_an_asynchronous_run_by_its_recipe(journal: Journal) -> None:
    diary = Diary()
    diary.cohort(1, 0.0, "a", "b")
    diary.update(1, 1.0, "a", 10.0)
    diary.update(1, 2.0, "b", 1000.0)
    diary.commit(1, 3.0)
    run(journal, "r-1", 1.0, tiny_recipe(cohort=1, more='[algorithm]\nname = "fedbuff"'))
    start(journal, "r-1", 2.0)
    for entry in diary.entries:
        journal.append(entry)

    parts = Standings(journal).of("r-1", ["a", "b"])

    assert [parts[name].rounds for name in "ab"] == [1, 0]
    assert parts["a"].weight_ratio == 1.0


def test_standing_keeps_the_last_accuracies() -> None:
    made = Diary()
    for number in range(1, 3 * ACCURACIES):
        made.evaluation(number, "a", number % 100)

    kept = made.part("a").accuracies
    assert [round for round, _ in kept] == list(range(2 * ACCURACIES, 3 * ACCURACIES))
    assert kept[-1] == (299, 0.99)


def test_standing_is_the_same_however_its_entries_come(diary: Diary) -> None:
    standing = Standing()
    for entry in diary.entries:
        standing.take([entry])

    assert standing.part("a") == diary.part("a")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with open_store(f"sqlite:{tmp_path}") as store:
        yield store.journal


def run(journal: Journal, run_id: str, created_at_s: float, recipe: str = tiny_recipe()) -> None:
    record = RunRecord(
        run_id=run_id,
        model="m",
        recipe=recipe,
        state=RunState.QUEUED,
        rounds=9,
        created_at_s=created_at_s,
        updated_at_s=created_at_s,
    )
    entry = Entry(run_id=run_id, round=0, at_s=created_at_s, kind="run_submitted", fields={})
    journal.create_run(record, entry)


def start(journal: Journal, run_id: str, at_s: float) -> None:
    entry = Entry(run_id=run_id, round=0, at_s=at_s, kind="run_started", fields={})
    journal.set_run_state(run_id, RunState.RUNNING, entry)


def test_standings_go_on_from_where_they_were(journal: Journal, diary: Diary) -> None:
    run(journal, "r-1", 1.0)
    start(journal, "r-1", 2.0)
    standings = Standings(journal)
    for entry in diary.entries:
        journal.append(entry)
        standings.of("r-1", ["a"])

    assert standings.of("r-1", ["a", "b"]) == {"a": diary.part("a"), "b": diary.part("b")}


def test_standings_are_of_the_last_run_where_none_is_active(journal: Journal, diary: Diary) -> None:
    standings = Standings(journal)
    assert standings.of(None, ["a"]) == {"a": Part()}
    run(journal, "r-1", 1.0)
    run(journal, "r-2", 2.0)
    start(journal, "r-1", 3.0)
    for entry in diary.entries:
        journal.append(entry)

    assert standings.of(None, ["a"]) == {"a": diary.part("a")}
    assert standings.of("r-2", ["a"]) == {"a": Part()}
