from __future__ import annotations

import json

from fedfleet.cli.version_quality import VersionQuality, column_of, quality_of
from fedfleet.types import Evaluation
from fedfleet.v1 import control_service_pb2 as pb

MEASURED = Evaluation(
    samples=10,
    loss_sum=5.0,
    correct=6,
    top5=6,
    class_samples=(4, 6),
    class_correct=(1, 5),
    class_predicted=(2, 9),
)


def version(kind: str, evaluation: object = None) -> pb.Version:
    metrics = json.dumps({"evaluation": evaluation})
    card = json.dumps({"kind": kind})
    return pb.Version(model="m", number=3, run_id="r-1", card_json=card, metrics_json=metrics)


def test_version_is_told_by_what_the_coordinator_measured() -> None:
    own = {"accuracy": 0.9, "loss": 0.5}
    precise = {**own, "scores": {"map50": 0.75}}
    pooled = {("m", 3): MEASURED}

    classifier = quality_of(version("classification", own), pooled)
    old_detector = quality_of(version("detection", own), pooled)
    detector = quality_of(version("detection", precise), pooled)

    assert (classifier.name, classifier.value) == ("accuracy", 0.9)
    assert (old_detector.name, old_detector.value) == ("recall", 0.9)
    assert (detector.name, detector.value) == ("mAP@0.5", 0.75)
    assert (detector.hits_name, detector.hits, detector.loss) == ("recall", 0.9, 0.5)


def test_version_that_workers_alone_evaluated_says_so() -> None:
    pooled = {("m", 3): MEASURED}

    classifier = quality_of(version("classification"), pooled)
    detector = quality_of(version("detection"), pooled)

    assert (classifier.name, classifier.value, classifier.loss) == ("accuracy on workers", 0.6, 0.5)
    assert (detector.name, detector.value) == ("recall on workers", 0.6)
    assert quality_of(version("detection"), {}) == VersionQuality()


def test_column_is_named_where_its_cells_agree() -> None:
    one, other = VersionQuality("accuracy", 0.5), VersionQuality("mAP@0.5", 0.75)
    nothing = VersionQuality()

    assert column_of([one, nothing]) == "accuracy"
    assert [cell.told("accuracy") for cell in (one, nothing)] == ["50.0 %", "-"]
    assert column_of([one, other]) == "quality"
    assert [cell.told("quality") for cell in (one, other, nothing)] == [
        "50.0 % accuracy",
        "75.0 % mAP@0.5",
        "-",
    ]
