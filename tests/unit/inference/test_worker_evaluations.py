from __future__ import annotations

from pathlib import Path

from contract.store.builders import a_run, an_entry

from fedfleet.store.sqlite import SqliteStore
from fedfleet.types import Evaluation
from fedfleet_inference_api.worker_evaluations import RUNS, WorkerEvaluations


def reported(run_id: str, round: int, worker_id: str, correct: int) -> dict[str, object]:
    evaluation = Evaluation(
        samples=10,
        loss_sum=2.5,
        correct=correct,
        top5=10,
        class_samples=(10,),
        class_correct=(correct,),
        class_predicted=(10,),
    )
    return {
        "assignment_id": f"{run_id}/{round}/1/evaluate/{worker_id}",
        "evaluation": evaluation.to_json(),
    }


def test_evaluations_of_a_round_are_added_up_as_they_come(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        journal = store.journal

        def report(round: int, worker_id: str, correct: int) -> None:
            fields = reported("run-1", round, worker_id, correct)
            journal.append(an_entry(kind="evaluation_reported", round=round, fields=fields))

        journal.create_run(a_run("run-1"), an_entry(kind="run_submitted"))
        evaluations = WorkerEvaluations(journal)
        assert evaluations.by_round("run-1") == {}
        report(1, "pi", 6)
        report(1, "nano", 9)
        first = evaluations.by_round("run-1")
        report(1, "pi", 7)  # again: the newest counts
        report(2, "pi", 10)

        assert first == {1: {"samples": 20.0, "correct": 15.0, "loss_sum": 5.0}}
        assert evaluations.by_round("run-1") == {
            1: {"samples": 20.0, "correct": 16.0, "loss_sum": 5.0},
            2: {"samples": 10.0, "correct": 10.0, "loss_sum": 2.5},
        }
        # What is forgotten is read again.
        for number in range(RUNS):
            assert evaluations.by_round(f"other-{number}") == {}
        assert len(evaluations.by_round("run-1")) == 2
