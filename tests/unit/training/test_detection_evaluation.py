from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from boxed import CARD, squares
from detectors import encode_boxes
from torch import Tensor, nn

from fedfleet.data.boxes import ignored_label
from fedfleet.data.shard import Examples
from fedfleet.errors import NotInstalled
from fedfleet.models.detection import Detection, centres_of
from fedfleet.training.detection_evaluation import Seen, compare, evaluate_detector

CPU = torch.device("cpu")
NEAR = (0.1, 0.1, 0.4, 0.4)
FAR = (0.6, 0.6, 0.9, 0.9)


def rows(*boxes: tuple[int, tuple[float, ...]]) -> Any:
    found = np.array([(label, *corners) for label, corners in boxes], np.float32)
    return found.reshape(-1, 5)


class Oracle(nn.Module):
    """Answers what it is told, image by image, in order."""

    def __init__(self, told: list[list[tuple[int, float, tuple[float, ...]]]]) -> None:
        super().__init__()
        self._told = iter(told)

    def forward(self, images: Tensor) -> Tensor:
        centres = centres_of(CARD)
        answers = np.zeros((len(images), len(centres), 7), np.float32)
        answers[:, :, 4] = 20
        for image in answers:
            for anchor, (label, score, box) in enumerate(next(self._told)):
                image[anchor, 4:] = (np.log(1 - score), -20, -20)
                image[anchor, 5 + label] = np.log(score)
                centre = centres[anchor : anchor + 1]
                image[anchor, :4] = encode_boxes(np.array([box], np.float32), centre)
        return torch.from_numpy(answers)


def evaluated(
    truth: list[list[tuple[int, tuple[float, ...]]]],
    told: list[list[tuple[int, float, tuple[float, ...]]]],
    *,
    batch_size: int = 2,
    scores: bool = False,
) -> Any:
    most = max(map(len, truth))
    boxes = np.zeros((len(truth), most, 5), np.float32)
    boxes[:, :, 0] = -1
    for place, of_image in enumerate(truth):
        boxes[place, : len(of_image)] = rows(*of_image)
    examples = Examples(
        np.zeros((len(truth), 3, 32, 32), np.uint8), np.zeros(len(truth), np.int64), boxes
    )
    return evaluate_detector(
        Oracle(told),
        examples,
        CARD,
        lambda answers, targets: torch.full((len(answers),), 2.0),
        batch_size=batch_size,
        device=CPU,
        scores=scores,
    )


def test_boxes_are_counted_once_by_the_surest_answer() -> None:
    truth = [[(0, NEAR), (1, FAR)], [], [(1, NEAR)]]
    told = [
        [(0, 0.9, NEAR), (0, 0.6, (0.1, 0.1, 0.4, 0.3)), (0, 0.8, FAR)],
        [(1, 0.7, FAR)],
        [(1, 0.45, NEAR)],
    ]

    found = evaluated(truth, told)

    assert (found.samples, found.correct, found.top5) == (3, 1, 1)
    assert found.class_samples == (1, 2)
    assert found.class_correct == (1, 0)
    assert found.class_predicted == (2, 1)  # two of class 0 in the first picture overlap
    assert found.loss_sum == pytest.approx(2.0 * 2 + 2.0 * 1)
    assert found.scores == {}


def test_counts_add_up_over_parts_and_do_not_depend_on_the_batch() -> None:
    truth: list[Any] = [[(0, NEAR), (1, FAR)], [(0, FAR)], [(1, NEAR)]]
    told: list[Any] = [[(0, 0.9, NEAR)], [(0, 0.8, FAR)], [(0, 0.9, NEAR)]]

    whole = evaluated(truth, told)
    parts = [evaluated(truth[i : i + 1], told[i : i + 1]) for i in range(3)]

    assert parts[0] + parts[1] + parts[2] == whole
    assert evaluated(truth, told, batch_size=1) == whole


def test_average_precision_of_a_case_by_hand() -> None:
    """Class 0: answers right, wrong, right of two boxes; precision 1 up to recall 1/2, then 2/3.

    COCO reads the curve at 101 recalls: 51 of them are 1/2 or less.
    """
    truth: list[Any] = [[(0, NEAR)], [(0, NEAR)], [(1, FAR)]]
    told: list[Any] = [
        [(0, 0.9, NEAR), (0, 0.8, FAR)],
        [(0, 0.7, NEAR)],
        [(1, 0.6, FAR)],
    ]

    scores = evaluated(truth, told, scores=True).scores

    first = (51 + 50 * 2 / 3) / 101
    assert scores["ap50/bright"] == pytest.approx(first, abs=1e-6)
    assert scores["ap50/dark"] == pytest.approx(1.0)
    assert scores["map50"] == pytest.approx((first + 1) / 2, abs=1e-6)
    assert scores["map"] == pytest.approx((first + 1) / 2, abs=1e-6)


def test_class_without_a_box_has_no_average_precision() -> None:
    scores = evaluated([[(0, NEAR)]], [[(1, 0.9, FAR)]], scores=True).scores

    assert scores == {"map50": 0.0, "map": 0.0, "ap50/bright": 0.0}


def test_pictures_without_boxes_have_no_scores() -> None:
    examples = squares(4, most=0)
    assert examples.boxes is not None
    assert not (examples.boxes[..., 0] >= 0).any()

    found = evaluate_detector(
        Oracle([[] for _ in range(4)]),
        examples,
        CARD,
        lambda answers, targets: torch.zeros(len(answers)),
        batch_size=4,
        device=CPU,
        scores=True,
    )

    assert (found.samples, found.scores) == (0, {})


def test_missing_torchmetrics_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fedfleet.training.average_precision", raising=False)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.detection", None)

    with pytest.raises(
        NotInstalled, match=r"torchmetrics is not installed .*'detection' brings it"
    ):
        evaluated([[(0, NEAR)]], [[]], scores=True)


def test_answer_counts_for_the_box_that_it_overlaps_most() -> None:
    answers = [Detection(0, 0.9, (0.1, 0.1, 0.4, 0.38)), Detection(0, 0.8, (0.1, 0.1, 0.4, 0.33))]
    truth = rows((0, (0.1, 0.1, 0.4, 0.3)), (0, (0.1, 0.1, 0.4, 0.4)))

    assert compare(Seen(truth, answers))[0] == [0, 0]


CROWD = (0.5, 0.5, 0.9, 0.9)
IN_CROWD = (0.52, 0.52, 0.62, 0.62)


def test_answer_in_an_ignored_region_of_its_class_is_neither_right_nor_wrong() -> None:
    found = evaluated(
        [[(0, NEAR), (ignored_label(0), CROWD)]],
        [
            [
                (0, 0.9, IN_CROWD),
                (0, 0.85, (0.7, 0.7, 0.8, 0.82)),
                (1, 0.8, IN_CROWD),
                (0, 0.6, NEAR),
            ]
        ],
    )

    assert (found.samples, found.correct) == (1, 1)
    assert found.class_samples == (1, 0)
    assert found.class_predicted == (1, 1), "a crowd of one class excuses no other"


def test_average_precision_ignores_what_coco_ignores() -> None:
    # What pycocotools says of the annotations with iscrowd = 1; with the crowd left out it is 1/3.
    found = evaluated(
        [[(0, NEAR), (ignored_label(0), CROWD)]],
        [[(0, 0.9, IN_CROWD), (0, 0.85, (0.7, 0.7, 0.8, 0.82)), (0, 0.6, NEAR)]],
        scores=True,
    )

    assert found.scores["map50"] == pytest.approx(1)
