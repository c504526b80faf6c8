from __future__ import annotations

from fedfleet.cli.quality import class_quality, quality_column, told, told_json
from fedfleet.types import Evaluation


def evaluation(**scores: float) -> Evaluation:
    return Evaluation(
        samples=10,
        loss_sum=5.0,
        correct=6,
        top5=6,
        class_samples=(4, 6, 0),
        class_correct=(1, 5, 0),
        class_predicted=(2, 9, 0),
        scores=scores,
    )


DETECTOR = evaluation(map50=0.75, map=0.5, **{"ap50/circle": 0.8})


def test_classifier_is_told_by_its_accuracy() -> None:
    assert told(evaluation()) == "accuracy 60.0 %  loss 0.5"
    assert told_json(evaluation().to_json()) == told(evaluation())


def test_detector_is_told_by_its_average_precision_and_recall() -> None:
    assert told(DETECTOR) == "mAP@0.5 75.0 %  recall 60.0 %  loss 0.5"
    assert told_json(DETECTOR.to_json()) == told(DETECTOR)


def test_column_is_named_after_what_is_in_it() -> None:
    assert quality_column([None, evaluation()]) == "accuracy"
    assert quality_column([None, DETECTOR]) == "mAP@0.5"
    assert quality_column([evaluation(), DETECTOR]) == "accuracy or mAP@0.5"
    assert quality_column([None]) == "accuracy"


def test_class_has_its_own_average_precision_or_share_of_right_answers() -> None:
    assert class_quality(DETECTOR, 0, "circle") == 0.8
    assert class_quality(DETECTOR, 1, "square") is None
    assert class_quality(evaluation(), 0, "circle") == 0.25
    assert class_quality(evaluation(), 2, "star") is None


def test_scores_survive_json_and_not_a_sum() -> None:
    again = Evaluation.from_json(DETECTOR.to_json())

    assert again == DETECTOR
    assert again.quality == 0.75
    assert (again + again).scores == {}
    assert (again + again).quality == 0.6
    assert "scores" not in evaluation().to_json()


def test_share_that_a_detector_finds_is_nowhere_called_accuracy() -> None:
    assert told(evaluation(), of_detector=True) == "recall 60.0 %  loss 0.5"
    assert quality_column([evaluation()], of_detector=True) == "recall"
    assert quality_column([evaluation(), DETECTOR], of_detector=True) == "recall or mAP@0.5"
    assert quality_column([None], of_detector=True) == "mAP@0.5"
