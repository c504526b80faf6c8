from __future__ import annotations

from fedfleet.algorithms.plan import Chain, Plan
from fedfleet.cli.runs import _brief
from fedfleet.rounds import events as ev


def test_cohort_is_its_workers_where_nothing_else_is_to_be_said() -> None:
    plain = ev.cohort_selected(Plan((Chain(("a",)), Chain(("b",)))), 1.0)
    chained = ev.cohort_selected(Plan((Chain(("a", "b"), "7"), Chain(("c",))), 3), 1.0)

    assert _brief(ev.to_fields(plain)) == "workers=a,b"
    assert _brief(ev.to_fields(chained)) == "workers=a,b,c chain_lengths=2,1 lanes=7, updates=3"


def test_state_that_was_relayed_is_named_without_its_blob() -> None:
    fields = {"lane": "7", "after": ["r-1/2/1/train/a"], "blobs": ["ab" * 32]}

    assert _brief(fields) == "lane=7 after=r-1/2/1/train/a"


def test_commit_is_its_version_and_evaluation() -> None:
    metrics = {"train": {"train_loss": 1.0}, "evaluation": {"accuracy": 0.5, "loss": 2.0}}
    fields = {"version": 3, "digest": "ab" * 32, "ladder": {"rungs": []}, "metrics": metrics}

    assert _brief({**fields, "blobs": ["x"]}).startswith("version=3 accuracy=50")


def test_evaluation_of_a_detector_is_told_by_its_recall() -> None:
    evaluation = {"accuracy": 0.5, "loss": 2.0}
    precise = {**evaluation, "scores": {"map50": 0.75}}

    assert _brief({"evaluation": evaluation}, of_detector=True) == "recall=50.0 % loss=2"
    assert _brief({"evaluation": precise}) == "map50=75.0 % recall=50.0 % loss=2"
